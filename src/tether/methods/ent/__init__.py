"""Error Norm Truncation: Robust Training in the Presence of Data Noise for Text Generation Models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
