"""What one model learns from another."""

from tether.adapt.distill.text import Distilled, distil_text

__all__ = ["Distilled", "distil_text"]
