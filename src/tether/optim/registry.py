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
        "spam": "tether.optim.spam:SPAM",
        "stable_spam": "tether.optim.stable_spam:StableSPAM",
        "clip_radagrad_d": "tether.optim.clip_radagrad:ClipRAdaGradD",
        "clip_adagrad": "tether.optim.clip_adagrad:ClipAdaGrad",
        "clip_adagrad_d": "tether.optim.clip_adagrad:ClipAdaGradD",
        "clip_adam": "tether.optim.clip_adam:ClipAdam",
        "clip_adam_d": "tether.optim.clip_adam:ClipAdamD",
        "lamb": "tether.optim.lamb:Lamb",
    },
)
"""Every optimiser by the name a recipe uses; the first argument, ``params``, is given by code."""
