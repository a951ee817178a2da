"""Which pairs of a pool are kept: steps of a recipe, run over any source here or on Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
