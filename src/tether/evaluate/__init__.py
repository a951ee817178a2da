"""How good is a model: retrieval, zero-shot, geometry, CLIPScore, and the report of a run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
