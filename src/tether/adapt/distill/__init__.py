"""What one model learns from another."""

from tether.adapt.distill.swap import ProclipStep, SwapTuned, swap_text, tune_swapped_
from tether.adapt.distill.text import Distilled, distil_text

__all__ = ["Distilled", "ProclipStep", "SwapTuned", "distil_text", "swap_text", "tune_swapped_"]
