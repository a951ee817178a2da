"""Learning across sites whose data stay there: rounds on one machine, and the same between machines by Flower."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
