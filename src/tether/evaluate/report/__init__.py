"""The report of a run: one HTML file without any outside reference, made to be enjoyed and passed on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
