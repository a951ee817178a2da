"""The recipes of ``tether adapt``: each takes one kind of data and gives a head or a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
