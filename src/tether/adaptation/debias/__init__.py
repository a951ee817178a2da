"""A shortcut or an attribute taken out of what a trained model says: of its texts, its images, or both."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
