"""Post-pre-training for Modality Alignment in Vision-Language Foundation Models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
