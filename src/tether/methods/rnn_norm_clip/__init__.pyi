from .loss import VanishingGradientPenalty as VanishingGradientPenalty
from .loss import omega_regulariser as omega_regulariser
