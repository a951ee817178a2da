"""Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
