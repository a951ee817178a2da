"""VITRIX-CLIPIN: fine-grained visual understanding by edited images and long captions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
