"""FairerCLIP: Debiasing CLIP's Zero-Shot Predictions using Functions in RKHSs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
