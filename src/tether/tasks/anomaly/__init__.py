"""Which images have a defect, and where: from words, from a few good images, or from both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
