"""Tether: contrastive language-image models, from raw pairs to a model in use.

Everything here loads on first use, so importing the package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tether.core import moved

if TYPE_CHECKING:
    from tether.models.load import load as load
    from tether.models.save import save as save
    from tether.workflows.adapt import adapt as adapt
    from tether.workflows.audit import audit as audit
    from tether.workflows.caption import caption as caption
    from tether.workflows.classify import classify as classify
    from tether.workflows.compress import compress as compress
    from tether.workflows.detect import detect as detect
    from tether.workflows.draw import draw as draw
    from tether.workflows.edit import edit as edit
    from tether.workflows.embed import embed as embed
    from tether.workflows.evaluate import evaluate as eval
    from tether.workflows.export import export as export
    from tether.workflows.generate import generate as generate
    from tether.workflows.norms import norms as norms
    from tether.workflows.push import push as push
    from tether.workflows.quality import quality as quality
    from tether.workflows.rank import rank as rank
    from tether.workflows.read import read as read
    from tether.workflows.search import search as search
    from tether.workflows.segment import segment as segment
    from tether.workflows.train import train as train

moved.install()

__version__ = "0.2.0"

_ELSEWHERE = {"load": "tether.models.load", "save": "tether.models.save"}
_NAMED_APART = {"eval": "evaluate"}  # any other verb is the function of a workflow of its own name

__all__ = [
    "__version__",
    "adapt",
    "audit",
    "caption",
    "classify",
    "compress",
    "detect",
    "draw",
    "edit",
    "embed",
    "eval",
    "export",
    "generate",
    "load",
    "norms",
    "push",
    "quality",
    "rank",
    "read",
    "save",
    "search",
    "segment",
    "train",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name in __all__:
        function = _NAMED_APART.get(name, name)
        return getattr(importlib.import_module(_ELSEWHERE.get(name, f"tether.workflows.{function}")), function)
    raise AttributeError(f"module 'tether' has no attribute {name!r}")
