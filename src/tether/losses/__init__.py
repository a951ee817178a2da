"""What is asked of the embeddings: objectives, and the InfoNCE core under them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
