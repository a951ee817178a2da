"""How does fake news use a thumbnail? CLIP-based Multimodal Detection on the Unrepresentative News Image."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
