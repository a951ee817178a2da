from .loss import ContrastiveGapLoss as ContrastiveGapLoss
