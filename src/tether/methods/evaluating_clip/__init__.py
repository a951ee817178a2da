"""Evaluating CLIP: Towards Characterization of Broader Capabilities and Downstream Implications."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
