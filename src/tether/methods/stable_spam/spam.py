"""SPAM: Adam that caps single entries far above their second moment and starts its moments again now and then."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from tether.core.norms import add_over_shards_, local_squares
from tether.core.ranges import Decay, NonNegative, Rate, Whole, checked
from tether.optim.adam_kernel import adam_
from tether.optim.optimizer_base import (
    Moving,
    Stepper,
    by_group,
    flags,
    gather,
    pieces,
    scalars,
    scatter,
)
from tether.optim.param_groups import Params

LEAST_SCALE = 0.01
"""Share of the learning rate with which a warm-up after a reset begins (SPAM.py: 1 - 0.99)."""


@final
class SPAM(Stepper):
    """Adam with spike-aware clipping and momentum reset.

    An entry whose square is more than ``threshold`` times its second moment is cut back to that. Every
    ``reset_interval`` calls both moments are emptied before they are used, the cap rests for ``accumulate_steps``
    calls, and the learning rate warms up again over ``warmup_steps``; the bias correction goes on as if nothing had
    happened. ``w -= lr * sqrt(1 - beta2^n) / (1 - beta1^n) * m / (sqrt(v) + eps)``, then the weight decay.

    Source: arXiv 2501.06842 and the released class ``AdamW`` of SPAM.py, without its sparse momentum. Of our own: every
    counter is saved; ``.grad`` is left alone unless asked; a tensor whose gradient is not finite is left alone, and its
    state too (the released code caps an infinite entry, but a NaN spoils its entry for good); an interval of 0, which
    divides by zero there, means no reset; a parameter that gets its first gradient late has ``accumulate_steps`` calls
    without cap of its own.
    """

    figures: ClassVar[frozenset[str]] = frozenset({"calls", "step", "joined"})

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: NonNegative = 1e-6,
        weight_decay: Rate = 0.0,
        threshold: NonNegative = 5000.0,
        reset_interval: Whole = 500,
        warmup_steps: Whole = 150,
        accumulate_steps: Whole = 20,
        cap_mode: Literal["official", "clean"] = "official",
        bias_correction: bool = True,
        inplace_grad: bool = False,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            betas: decay of the first and second moment.
            eps: added to the root of the second moment; 0 makes NaN of an entry that never had a gradient.
            weight_decay: share of the weight, times the learning rate, taken off after each step.
            threshold: how many times its second moment an entry's square may be; 0 = no cap.
            reset_interval: calls from one reset of the moments to the next; 0 = never.
            warmup_steps: calls over which the learning rate comes back after a reset.
            accumulate_steps: calls without cap at the start and after each reset.
            cap_mode: what becomes of an entry whose second moment is zero when the cap begins, such as the row of a
                word not met so far: ``official`` cuts its gradient to zero, as the released code does, so that it rests
                until a reset; ``clean`` leaves it alone.
            bias_correction: whether the moments are corrected for having started at zero.
            inplace_grad: leave in ``.grad`` what the cap made of it, as the released code does.
        """
        super().__init__(params, locals())

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _advance(self, moving: Sequence[Moving]) -> None:
        calls = self._tick(moving)
        for each in moving:
            if "exp_avg" not in each.state:
                self._begin(each)
                each.state["joined"] = torch.tensor(calls - 1)
            elif each.state["joined"].device.type != "cpu":  # where a loaded 0-d parameter took it
                each.state["joined"] = each.state["joined"].cpu()
        for members in by_group(moving):
            self._advance_group(members, calls=calls)

    def _advance_group(self, members: Sequence[Moving], *, calls: int) -> None:
        group = members[0].group
        (beta1, beta2), interval = group["betas"], group["reset_interval"]
        since = calls % interval if interval else calls
        rest = group["accumulate_steps"]
        cap: Cap = functools.partial(cap_spikes, threshold=group["threshold"], mode=group["cap_mode"])
        scale = _warm_up(calls, interval=interval, steps=group["warmup_steps"])

        squares = local_squares([each.gradient for each in members])
        add_over_shards_(squares, [each.shards for each in members])
        finite = squares.isfinite()
        step = gather(members, "step") + 1
        rate = torch.full_like(step, group["lr"] * scale)
        if group["bias_correction"]:
            rate = rate * (1 - beta2**step).sqrt() / (1 - beta1**step)
        kept = scalars(torch.where(finite, 0.0, 1.0))
        for each, speed, skip, keep in zip(members, scalars(rate), flags(~finite), kept, strict=True):
            if skip is True:
                continue
            if interval and since == 0:
                each.local("exp_avg").mul_(keep)
                each.local("exp_avg_sq").mul_(keep)
            capped = group["threshold"] > 0 and min(since, calls - int(each.state["joined"])) >= rest
            if capped and group["inplace_grad"]:
                second = each.local("exp_avg_sq").view_as(each.gradient).to(each.gradient.dtype)
                each.gradient.copy_(cap(each.gradient, second=second))
            adam_(
                each,
                _capped(each, cap) if capped else each.gradient_pieces(),
                lr=speed,
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                step=None,
                decay_after=group["lr"] * group["weight_decay"],
                skip=skip if isinstance(skip, Tensor) else None,
            )
        scatter(members, step=torch.where(finite, step, step - 1))


Cap = Callable[..., Tensor]


def cap_spikes(
    gradient: Tensor, *, second: Tensor, threshold: float, mode: Literal["official", "clean"] = "official"
) -> Tensor:
    """Cut entries whose square is more than ``threshold`` times their second moment back to that; a new tensor.

    arXiv 2501.06842, section 3; the second moment is the raw one, not corrected for its start at zero.

    Args:
        gradient: any shape.
        second: second moment of each entry from before this step.
        threshold: how many times it an entry's square may be.
        mode: see ``SPAM``'s ``cap_mode``.
    """
    most = (second * threshold).sqrt_()
    if mode == "clean":
        most.masked_fill_(second == 0, torch.inf)
    return gradient.clamp(min=-most, max=most)


def _capped(each: Moving, cap: Cap) -> Iterator[Tensor]:
    for gradient, (second,) in zip(each.gradient_pieces(), pieces(each.local("exp_avg_sq")), strict=True):
        yield cap(gradient, second=second)


def _warm_up(calls: int, *, interval: int, steps: int) -> float:
    """Factor of the learning rate: 1 before the first reset and once the warm-up after a reset is over."""
    if not interval or calls < interval or calls % interval >= steps:
        return 1.0
    return 1 - (1 - LEAST_SCALE) * (1 + math.cos(math.pi * (calls % interval) / (steps + 1))) / 2
