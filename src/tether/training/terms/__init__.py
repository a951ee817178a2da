"""What a step's loss is made of: terms over what was encoded, besides the objectives of ``tether.losses``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
