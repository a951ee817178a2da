from .beta_moving_average import BetaMovingAverage as BetaMovingAverage
from .beta_moving_average import beta_weights as beta_weights
from .interpolate import interpolate as interpolate
