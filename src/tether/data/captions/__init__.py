"""What an image is called: which of its captions a batch uses, and other words for them, written beforehand or drawn.

Texts are rewritten once, before training, by a ``Rewriter``, a ``Fuser`` or a ``Paraphraser``; no model is in the loop.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
