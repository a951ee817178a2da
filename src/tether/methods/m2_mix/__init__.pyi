from .hard_contrastive import HardContrastiveLoss as HardContrastiveLoss
from .hard_contrastive import hard_contrastive_loss as hard_contrastive_loss
from .loss import M2MixLoss as M2MixLoss
from .loss import MixTerms as MixTerms
from .loss import geodesic_mix as geodesic_mix
from .loss import m2_mix_loss as m2_mix_loss
