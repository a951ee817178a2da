"""What an adaptation changed: own data before and after, what was forgotten, what it cost; a page and JSON."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
