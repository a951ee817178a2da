"""Classifiers on the embeddings of images: one folder format, bound to the encoder that they were fitted on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
