"""Canvases for the painting loop: strokes, blobs, primitives, a network of places, pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
