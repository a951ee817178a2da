"""Suites of test sets: clip_benchmark's numbers, of several models on the same images, and which differences hold."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
