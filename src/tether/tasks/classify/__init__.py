"""Name images: zero-shot classification with prompts, calibrated confidence and the right to abstain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
