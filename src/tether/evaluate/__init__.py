"""How good is a model: retrieval, zero-shot, geometry, CLIPScore, and the report of a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.evaluate.measures import evaluate as evaluate
    from tether.evaluate.metric import RetrievalRecall as RetrievalRecall
    from tether.evaluate.retrieval import recall_at_k as recall_at_k

_LAZY = {"RetrievalRecall": "metric", "evaluate": "measures", "recall_at_k": "retrieval"}

__all__ = ["RetrievalRecall", "evaluate", "recall_at_k"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(f"tether.evaluate.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'tether.evaluate' has no attribute {name!r}")
