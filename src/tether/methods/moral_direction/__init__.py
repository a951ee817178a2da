"""Large Pre-trained Language Models Contain Human-like Biases of What is Right and Wrong to Do."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
