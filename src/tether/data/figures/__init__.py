"""Figures of scientific papers with their captions: out of LaTeX sources and JATS articles, safely."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
