"""Packages that are verbs as well: ``tether.train`` holds the parts of training, and ``tether.train(...)`` trains."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(name: str, verb: str) -> None:
    """Let a module be called as the function that ``verb`` names, which is imported when it is first needed.

    ``help``, ``inspect.signature`` and a notebook's ``?`` show the function's signature and docstring.

    Args:
        name: the module's ``__name__``.
        verb: ``module:function``; it may lie in a package above, which the module itself may not import.
    """
    where, _, attribute = verb.partition(":")

    def function() -> Callable[..., Any]:
        return getattr(importlib.import_module(where), attribute)

    def call(_: ModuleType, *args: Any, **keywords: Any) -> Any:
        return function()(*args, **keywords)

    def signature(_: ModuleType) -> inspect.Signature:
        return inspect.signature(function())

    def doc(module: ModuleType) -> str:  # with the call, as ``help`` shows no signature of a module
        summary, _, rest = inspect.cleandoc(function().__doc__ or "").partition("\n\n")
        plain = [one.replace(annotation=one.empty) for one in signature(module).parameters.values()]
        return f"{summary}\n\n{name}{inspect.Signature(plain)}\n\n{rest}"

    members = {"__call__": call, "__signature__": property(signature), "__doc__": property(doc)}
    sys.modules[name].__class__ = type("Verb", (ModuleType,), members)
