"""Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
