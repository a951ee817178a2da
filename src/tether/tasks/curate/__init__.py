"""Steps of curation that look at pairs with a model, on top of those in ``data.curate`` that need none."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
