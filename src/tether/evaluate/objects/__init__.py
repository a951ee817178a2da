"""Several objects at once: what each tower makes of order and size, by the protocol of ComCO (arXiv 2502.19842)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
