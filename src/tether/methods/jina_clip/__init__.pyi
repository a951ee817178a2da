from .loss import InfoNceLoss as InfoNceLoss
from .loss import InfoNceTerms as InfoNceTerms
from .loss import info_nce_loss as info_nce_loss
