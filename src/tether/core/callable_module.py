"""Packages that are verbs as well: ``tether.train`` holds the parts of training, and ``tether.train(...)`` trains."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def make_callable(name: str, verb: str) -> None:
    """Let a module be called as the function that ``verb`` names, which is imported at the first call.

    Args:
        name: the module's ``__name__``.
        verb: ``module:function``; it may lie in a package above, which the module itself may not import.
    """
    where, _, function = verb.partition(":")

    class Verb(ModuleType):
        def __call__(self, *args: Any, **keywords: Any) -> Any:
            return getattr(importlib.import_module(where), function)(*args, **keywords)

    sys.modules[name].__class__ = Verb
