from .beta_moving_average import BetaMovingAverage as BetaMovingAverage
from .beta_moving_average import beta_weights as beta_weights
from .finetune import MarginStep as MarginStep
from .finetune import Tuned as Tuned
from .finetune import class_texts as class_texts
from .finetune import tune_images_ as tune_images_
from .loss import MarginMetricSoftmax as MarginMetricSoftmax
from .recipe import ClipoodRecipe as ClipoodRecipe
