"""Scenes in space as fields with codes for shape and appearance: learnt from views, found in one, edited by words."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
