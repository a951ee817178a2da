"""How the weights move: optimisers, parameter groups, and in ``clip`` what bounds the gradients."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from tether.optim.adamw import AdamW
from tether.optim.fold import clip_and_step
from tether.optim.groups import parameter_groups
from tether.optim.sgd import SGD
from tether.optim.spam import SPAM
from tether.optim.stable_spam import StableSPAM

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"adamw": AdamW, "sgd": SGD, "spam": SPAM, "stable_spam": StableSPAM}
"""Every optimiser by the name a recipe uses; the first argument, ``params``, is given by code."""

__all__ = ["OPTIMIZERS", "SGD", "SPAM", "AdamW", "StableSPAM", "clip_and_step", "parameter_groups"]
