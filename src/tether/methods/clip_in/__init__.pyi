from .loss import SymmetricHardNegativeLoss as SymmetricHardNegativeLoss
from .loss import SymmetricTerms as SymmetricTerms
from .loss import symmetric_negative_loss as symmetric_negative_loss
from .rotary import RotaryEmbedding as RotaryEmbedding
from .step import ClipInStep as ClipInStep
