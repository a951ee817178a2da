"""Captions: a language model that is told an image, learnt from texts alone or from pairs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
