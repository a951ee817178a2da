"""Adam on clipped gradients, at once and with a delayed second moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.norms import send
from tether.core.ranges import Decay, NonNegative, Positive, Rate, checked
from tether.methods.clip_radagrad.adagrad import TORCH_EPS
from tether.optim.adam_kernel import adam_
from tether.optim.clipping_optimizer import Clipped, ClippedOptimizer, ClipScope
from tether.optim.optimizer_base import (
    Scalar,
    by_group,
    gather,
    scalars,
    scatter,
)
from tether.optim.param_groups import Params


def _rates(clipped: Sequence[Clipped], finite: Tensor) -> dict[int, Scalar]:
    """Count a step of every parameter; the learning rate of each after bias correction, by its row.

    ``lr * sqrt(1 - beta2^k) / (1 - beta1^k)``: the root itself is not corrected (arXiv 1412.6980, end of section 2).
    """
    rates: dict[int, Scalar] = {}
    rows = {id(each.moving): each.row for each in clipped}
    for members in by_group([each.moving for each in clipped]):
        group = members[0].group
        beta1, beta2 = group["betas"]
        before = gather(members, "step")
        step = torch.where(send(finite, before.device), before + 1, before)
        scatter(members, step=step)
        rate = torch.full_like(step, group["lr"])
        if group["bias_correction"]:
            rate = rate * (1 - beta2**step).sqrt() / (1 - beta1**step)
        rates |= {rows[id(each)]: value for each, value in zip(members, scalars(rate), strict=True)}
    return rates


@final
class ClipAdam(ClippedOptimizer):
    """Adam on clipped gradients: ``w -= lr * sqrt(1 - beta2^k) / (1 - beta1^k) * m / (sqrt(v) + eps)``, then the decay.

    Source: arXiv 2406.04443, section 4, and the released class AdamClip. It knows no ``global`` scope; we do. Of our
    own: ``.grad`` is left alone, and a step whose global norm is not finite is skipped.
    """

    figures: ClassVar[frozenset[str]] = frozenset({"step"})

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        clip: Positive = 1.0,
        clip_scope: ClipScope = "tensor",
        eps: NonNegative = 1e-6,
        clip_eps: NonNegative = TORCH_EPS,
        weight_decay: Rate = 0.0,
        bias_correction: bool = True,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            betas: decay of the first and second moment.
            clip: the limit.
            clip_scope: what it bounds: the norm of all gradients (``global``), of each ``tensor``, each ``element``, or
                ``none``.
            eps: added to the root of the second moment; 0 makes NaN of an entry that never had a gradient.
            clip_eps: added to the norm that the limit is divided by.
            weight_decay: share of the weight, times the learning rate, taken off after each step.
            bias_correction: whether the moments are corrected for having started at zero.
        """
        super().__init__(params, locals())

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        rates = _rates(clipped, finite)
        for each in clipped:
            group = each.moving.group
            adam_(
                each.moving,
                map(each.clip, each.moving.gradient_pieces()),
                lr=rates[each.row],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                eps=group["eps"],
                step=None,
                decay_after=group["lr"] * group["weight_decay"],
                skip=None if each.finite is None else ~each.finite,
            )


@final
class ClipAdamD(ClippedOptimizer):
    """Adam on clipped gradients whose second moment runs one step behind: today's gradient cannot shrink its own step.

    ``m`` takes in the clipped gradient ``g``; ``w -= lr * m / (sqrt(v) + eps)``, then the decay, and only then
    ``v <- beta2 * v + (1 - beta2) * eta * g^2``, where ``v`` starts at ``beta2 * v0``.

    Source: arXiv 2406.04443, section 4, and the released class AdamClip_Delayed_Etta, whose numbers these are; it keeps
    the previous gradient (and the tensor itself, which ``zero_grad(set_to_none=False)`` overwrites), we keep none. A
    step whose global norm is not finite is skipped.
    """

    figures: ClassVar[frozenset[str]] = frozenset({"step"})

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        clip: Positive = 1.0,
        clip_scope: ClipScope = "tensor",
        eta: Positive = 1.0,
        v0: Positive = 1e-5,
        eps: NonNegative = 1e-6,
        clip_eps: NonNegative = TORCH_EPS,
        weight_decay: Rate = 0.0,
        bias_correction: bool = False,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule.
            betas: decay of the first and second moment.
            clip: the limit.
            clip_scope: what it bounds: the norm of all gradients (``global``), of each ``tensor``, each ``element``, or
                ``none``.
            eta: weight of a new square in the second moment.
            v0: the second moment at the start; it bounds the first steps.
            eps: added to the root of the second moment.
            clip_eps: added to the norm that the limit is divided by.
            weight_decay: share of the weight, times the learning rate, taken off after each step.
            bias_correction: whether the moments are corrected as if they had started at zero.
        """
        super().__init__(params, locals())

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": group["betas"][1] * group["v0"]}

    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        rates = _rates(clipped, finite)
        for each in clipped:
            group, rate = each.moving.group, rates[each.row]
            beta1, beta2 = group["betas"]
            past, new = each.unless_skipped(1 - beta1), each.unless_skipped(1 - beta2)
            if each.finite is not None:
                rate = torch.where(each.finite, rate, 0.0)
            for weight, gradient, first, second in each.rows("exp_avg", "exp_avg_sq"):
                first.lerp_(gradient, past)
                root = second.sqrt().add_(group["eps"])
                if isinstance(rate, Tensor):
                    weight.sub_(root.reciprocal_().mul_(first).mul_(rate))
                else:
                    weight.addcdiv_(first, root, value=-rate)
                each.decay_(weight)
                second.lerp_(gradient.square().mul_(group["eta"]), new)
