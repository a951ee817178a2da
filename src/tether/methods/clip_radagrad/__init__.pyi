from .adagrad import ClipAdaGrad as ClipAdaGrad
from .adagrad import ClipAdaGradD as ClipAdaGradD
from .adam import ClipAdam as ClipAdam
from .adam import ClipAdamD as ClipAdamD
from .radagrad import ClipRAdaGradD as ClipRAdaGradD
from .radagrad import coordinate_step_ as coordinate_step_
