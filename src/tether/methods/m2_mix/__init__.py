"""Geodesic Multi-Modal Mixup for Robust Fine-Tuning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
