"""Folders of test sets as others publish them: clip_benchmark's tars, SugarCrepe, Winoground, ARO."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
