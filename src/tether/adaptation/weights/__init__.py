"""Models made of the weights of several: averages over a run, and mixtures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
