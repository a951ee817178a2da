"""From Scarcity to Efficiency: Improving CLIP Training via Visual-enriched Captions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
