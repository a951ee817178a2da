from .loss import AlignClipLoss as AlignClipLoss
from .loss import AlignTerms as AlignTerms
from .loss import align_clip_loss as align_clip_loss
from .step import SemanticStep as SemanticStep
