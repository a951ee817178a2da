"""Models made of the weights of several: averages over a run, and mixtures."""

from __future__ import annotations

from tether.adapt.weights.beta_moving_average import BetaMovingAverage, beta_weights
from tether.adapt.weights.interpolate import interpolate

__all__ = ["BetaMovingAverage", "beta_weights", "interpolate"]
