"""What sees and reads: two transformer towers, and every way to get a model in and out.

``models.create`` makes one, ``tether.load`` reads one, ``models.embed`` applies one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.models.blocks.trace import Trace as Trace
    from tether.models.config import ModelConfig as ModelConfig
    from tether.models.cosine_head import CosineHead as CosineHead
    from tether.models.dual import Clip as Clip
    from tether.models.presets import configure as configure
    from tether.models.presets import create as create
    from tether.models.registry import MODELS as MODELS

_LAZY = {
    "MODELS": "tether.models.registry",
    "Clip": "tether.models.dual",
    "CosineHead": "tether.models.cosine_head",
    "ModelConfig": "tether.models.config",
    "Trace": "tether.models.blocks.trace",
    "configure": "tether.models.presets",
    "create": "tether.models.presets",
}

__all__ = ["MODELS", "Clip", "CosineHead", "ModelConfig", "Trace", "configure", "create"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tether.models' has no attribute {name!r}")
