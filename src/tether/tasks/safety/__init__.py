"""Which images may a person want to look at: prompts tuned on ratings, and the audit of a data set with them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
