"""un²CLIP: Improving CLIP's Visual Detail Capturing Ability via Inverting unCLIP."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
