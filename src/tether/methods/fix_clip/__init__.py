"""Fix-CLIP: dual-branch contrastive learning from synthetic captions for better understanding of long texts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
