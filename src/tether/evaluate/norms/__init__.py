"""Figures of heads on social norms, with chance beside each, and the report that says who judged."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
