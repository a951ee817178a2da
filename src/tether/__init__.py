"""Tether: contrastive language-image models, from raw pairs to a model in use.

Everything here loads on first use, so importing the package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.models.export import export as export
    from tether.models.load import load as load
    from tether.models.save import save as save

__version__ = "0.1.0"

_LAZY = {"load": "tether.models.load", "save": "tether.models.save", "export": "tether.models.export"}

__all__ = ["__version__", "export", "load", "save"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tether' has no attribute {name!r}")
