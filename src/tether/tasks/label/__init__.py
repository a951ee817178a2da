"""Labels of every pixel, which experts give to the images of a source once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
