"""CLIP-DINOiser: Teaching CLIP a few DINO tricks for open-vocabulary semantic segmentation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
