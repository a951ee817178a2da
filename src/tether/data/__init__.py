"""Which pairs do I learn from: sets, sources, images, loading and curation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
