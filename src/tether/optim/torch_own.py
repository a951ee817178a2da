"""torch's own AdamW and SGD with fused kernels wherever torch has them."""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.distributed as dist
from torch import Tensor

from tether.core.ranges import Decay, NonNegative, Rate, checked
from tether.optim.param_groups import CheckedGroups, Params, as_groups, defaults


@final
class AdamW(CheckedGroups, torch.optim.AdamW):
    """Adam with decoupled weight decay (arXiv 1711.05101), fused where possible.

    On the CPU torch's own default is a loop over tensors that costs seven to nine times the fused kernel.
    The defaults are CLIP's for ViT (arXiv 2103.00020, table 19).
    """

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 5e-4,
        betas: tuple[Decay, Decay] = (0.9, 0.98),
        eps: NonNegative = 1e-6,
        weight_decay: Rate = 0.2,
    ) -> None:
        """Take parameters or groups; a group's own ``weight_decay`` or ``lr`` wins over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            betas: decay of the first and second moment.
            eps: added to the root of the second moment.
            weight_decay: share of the weight, times the learning rate, taken off each step.
        """
        groups, fused = as_groups(params)
        super().__init__(groups, **defaults(AdamW, locals()), fused=fused or None)


@final
class SGD(CheckedGroups, torch.optim.SGD):
    """Plain, heavy-ball or Nesterov descent; weight decay is added to the gradient, as torch does."""

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 0.1,
        momentum: Decay = 0.9,
        momentum_rule: Literal["heavy_ball", "nesterov"] = "nesterov",
        weight_decay: Rate = 0.0,
    ) -> None:
        """Take parameters or groups; a group's own ``weight_decay`` or ``lr`` wins over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            momentum: weight of the past steps; 0 is plain descent.
            momentum_rule: ``heavy_ball`` (Polyak) or ``nesterov``; without momentum they are the same.
            weight_decay: times the weight, added to the gradient.
        """
        groups, fused = as_groups(params)
        nesterov = momentum_rule == "nesterov" and momentum > 0
        super().__init__(
            groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused or None
        )
        if fused and any(_sharded(parameter) for group in self.param_groups for parameter in group["params"]):
            for group in self.param_groups:
                group["fused"] = None  # torch chooses a loop that it has
            self._step_supports_amp_scaling = False


def _sharded(parameter: Tensor) -> bool:
    """Whether a parameter is a DTensor, for which torch has no fused descent."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)
