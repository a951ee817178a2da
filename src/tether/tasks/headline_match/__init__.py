"""Does an image represent its headline: incongruity, profiles of outlets, and a detector without labels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
