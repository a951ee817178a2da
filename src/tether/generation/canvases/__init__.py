"""Canvases for the painting loop: strokes, blobs, primitives, a network of places, pixels; and ``generate.draw``."""

import lazy_loader

from tether.core.callable_module import make_callable

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

make_callable(__name__, "tether.generation.canvases.prompted:draw")
