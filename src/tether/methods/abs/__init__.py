"""From Local Details to Global Context: Advancing Vision-Language Models with Attention-Based Selection."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
