"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer

OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizers",
    {
        "adamw": "tether.optim.torch_own:AdamW",
        "sgd": "tether.optim.torch_own:SGD",
        "lamb": "tether.optim.lamb:Lamb",
    },
)
"""Every optimiser by the name a recipe uses; the first argument, ``params``, is given by code."""
