"""When, in what order and on what hardware: the loop, checkpoints, schedules and a run's configuration."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tether.core.callable_module import make_callable

if TYPE_CHECKING:
    from tether.train.config import RunConfig as RunConfig
    from tether.train.config import load_config as load_config
    from tether.train.result import Result as Result
    from tether.train.run import train as train

_LAZY = {
    "Result": "tether.train.run",
    "RunConfig": "tether.train.config",
    "load_config": "tether.train.config",
    "train": "tether.train.run",
}

__all__ = ["Result", "RunConfig", "load_config", "train"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tether.train' has no attribute {name!r}")


make_callable(__name__, "tether.workflows.train:train")
