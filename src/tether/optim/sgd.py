"""Stochastic gradient descent with momentum, fused wherever torch can; not on sharded parameters."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
import torch.distributed as dist
from torch import Tensor

from tether.core.ranges import Decay, NonNegative, check_values, checked
from tether.optim.param_groups import Params, as_groups


@final
class SGD(torch.optim.SGD):
    """Plain, heavy-ball or Nesterov descent; weight decay is added to the gradient, as torch does."""

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: NonNegative = 0.1,
        momentum: Decay = 0.9,
        momentum_rule: Literal["heavy_ball", "nesterov"] = "nesterov",
        weight_decay: NonNegative = 0.0,
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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, whose own settings have the ranges of the constructor's."""
        check_values(type(self).__init__, param_group, where=type(self).__name__)
        super().add_param_group(param_group)


def _sharded(parameter: Tensor) -> bool:
    """Whether a parameter is a DTensor, for which torch has no fused descent."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)
