"""How the weights move: optimisers, parameter groups, and in ``clip`` what bounds the gradients."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from tether.optim.clip_adagrad import ClipAdaGrad, ClipAdaGradD
from tether.optim.clip_adam import ClipAdam, ClipAdamD
from tether.optim.clip_radagrad import ClipRAdaGradD
from tether.optim.fused_clip_step import clip_and_step
from tether.optim.lamb import Lamb
from tether.optim.layer_decay import layer_decay_groups
from tether.optim.param_groups import parameter_groups
from tether.optim.spam import SPAM
from tether.optim.stable_spam import StableSPAM
from tether.optim.timm_adapter import with_timm
from tether.optim.torch_own import SGD, AdamW

OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "adamw": AdamW,
    "sgd": SGD,
    "spam": SPAM,
    "stable_spam": StableSPAM,
    "clip_radagrad_d": ClipRAdaGradD,
    "clip_adagrad": ClipAdaGrad,
    "clip_adagrad_d": ClipAdaGradD,
    "clip_adam": ClipAdam,
    "clip_adam_d": ClipAdamD,
    "lamb": Lamb,
}
"""Every optimiser by the name a recipe uses; the first argument, ``params``, is given by code."""

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "SPAM",
    "AdamW",
    "ClipAdaGrad",
    "ClipAdaGradD",
    "ClipAdam",
    "ClipAdamD",
    "ClipRAdaGradD",
    "Lamb",
    "StableSPAM",
    "clip_and_step",
    "layer_decay_groups",
    "parameter_groups",
    "with_timm",
]
