"""Heads on social norms: encoders of texts, one classifier for every set, and what each paper adds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
