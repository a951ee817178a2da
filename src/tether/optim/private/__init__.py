"""Clipping norms under differential privacy: a rule that moves them, and its place in Opacus' optimiser."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
