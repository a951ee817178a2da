"""What evaluation in medicine asks for: many findings, whole patients, groups, places, and honest uncertainty."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
