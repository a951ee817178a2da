"""The datasheet of a curated set: what went in, what was dropped and why, what is left; one page and its Markdown."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
