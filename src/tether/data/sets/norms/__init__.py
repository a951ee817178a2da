"""Sets of social norms by path: five formats, one table, splits that keep a group on one side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
