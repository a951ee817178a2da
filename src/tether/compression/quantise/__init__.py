"""Quantisation as edits of a model: any encoder of ``tether.load``, and any module with linear layers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
