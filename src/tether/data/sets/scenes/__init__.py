"""A synthetic world with ground truth: scenes, images, captions, near misses, edits, lettering, defects, biases."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
