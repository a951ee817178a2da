"""Probes of what a zero-shot model does to groups of images: pure functions on embeddings, and their report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
