"""Cheaper models: quantisation, pruning, repair."""

import lazy_loader

from tether.core.callable_module import make_callable

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

make_callable(__name__, "tether.workflows.compress:compress")
