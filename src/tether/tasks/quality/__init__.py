"""How good photos are, by opposite prompts of a model, and how sharp, by their pixels alone."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
