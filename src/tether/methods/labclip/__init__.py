"""CLIP Behaves like a Bag-of-Words Model Cross-modally but not Uni-modally."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
