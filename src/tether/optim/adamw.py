"""AdamW with torch's fused kernel wherever there is one."""

from __future__ import annotations

from typing import final

import torch

from tether.optim.param_groups import Params, as_groups


@final
class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (arXiv 1711.05101), fused where possible.

    On the CPU torch's own default is a loop over tensors that costs seven to nine times the fused kernel.
    The defaults are CLIP's for ViT (arXiv 2103.00020, table 19).
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
    ) -> None:
        """Take parameters or groups; a group's own ``weight_decay`` or ``lr`` wins over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            betas: decay of the first and second moment, each in [0, 1).
            eps: added to the root of the second moment.
            weight_decay: share of the weight, times the learning rate, taken off each step.
        """
        groups, fused = as_groups(params)
        super().__init__(groups, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, fused=fused or None)
