"""Maps of patches made finer: an image's tiles seen beside the whole of it (FeatSharp)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
