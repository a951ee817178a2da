from .loss import CausalENT as CausalENT
from .loss import ENTLoss as ENTLoss
from .loss import HasLogits as HasLogits
from .loss import TruncatedLoss as TruncatedLoss
from .loss import error_norm as error_norm
