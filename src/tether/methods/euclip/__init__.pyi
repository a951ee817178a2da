from .entailment import check_origin as check_origin
from .entailment import entailment as entailment
from .loss import GeometryLoss as GeometryLoss
from .loss import GeometryTerms as GeometryTerms
from .loss import geometry_loss as geometry_loss
