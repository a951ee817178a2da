"""Likely wrong labels and captions, copies across a split and outliers, each with its reason."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
