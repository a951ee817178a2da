"""LAMB: Adam whose step on each tensor is as long, relative to the tensor, as the learning rate says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.norms import add_over_shards_, send
from tether.core.ranges import Decay, NonNegative, Positive, Rate, checked
from tether.optim.clipping_optimizer import Clipped, ClippedOptimizer
from tether.optim.optimizer_base import Scalar, by_group, gather, scalars, scatter
from tether.optim.param_groups import Params


@final
class Lamb(ClippedOptimizer):
    """Adam with a trust ratio: each tensor moves by a share of its own norm, so that large batches can learn fast.

    With ``m`` and ``v`` Adam's moments of the clipped gradient, corrected for having started at zero, ``u = m /
    (sqrt(v) + eps) + weight_decay * w`` and ``w -= lr * |w| / |u| * u``, with the ratio 1 where either norm is 0. A
    tensor without weight decay has no ratio, unless ``always_adapt``.

    Source: arXiv 1904.00962, algorithm 2, as in the released code of EVA-CLIP-18B (arXiv 2402.04252) and in timm. Of
    our own: ``.grad`` is left alone; a step whose global norm is not finite is skipped; every tensor counts its own
    steps, where theirs count those of its group; under FSDP2 norms are of whole tensors.

    A run's ``clipper`` bounds the gradients as well: with ``max_grad_norm`` beside it the smaller bound holds.

    Example:
        >>> import torch
        >>> from tether.optim import Lamb
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> weight.grad = torch.tensor([[1.0, 1.0]])
        >>> Lamb([weight], lr=0.1, weight_decay=0.01).step()
        >>> moved = (weight.detach() - torch.tensor([[3.0, 4.0]])).norm()
        >>> round(float(moved), 4)  # a tenth of the norm, which was 5
        0.5
    """

    figures: ClassVar[frozenset[str]] = frozenset({"step"})

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: NonNegative = 1e-6,
        weight_decay: Rate = 0.01,
        max_grad_norm: Positive | None = 1.0,
        bias_correction: bool = True,
        grad_averaging: bool = True,
        trust_clip: bool = False,
        always_adapt: bool = False,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: learning rate before the schedule; a share of each tensor's norm.
            betas: decay of the first and second moment.
            eps: added to the root of the second moment; 0 makes NaN of an entry that never had a gradient.
            weight_decay: times the weight, added to the update before its norm is taken.
            max_grad_norm: bound on the norm of the gradients of all groups together; None for none.
            bias_correction: whether the moments are corrected for having started at zero.
            grad_averaging: whether the first moment takes in ``1 - beta1`` of a gradient, or all of it.
            trust_clip: whether the ratio is at most 1.
            always_adapt: whether tensors without weight decay have a ratio, too.
        """
        super().__init__(params, locals())

    def _complete(self, group: dict[str, Any]) -> None:
        bound = group["max_grad_norm"]
        group |= {"clip": bound, "clip_scope": "none" if bound is None else "global", "clip_eps": 0.0}

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        corrections = _corrections(clipped, finite)
        adapted = [each for each in clipped if _adapts(each)]
        lengths: list[Tensor] = []  # squared, of each adapted weight and of its update
        for each in clipped:
            lengths += _take_in(each, corrections[each.row])
        ratios = {each.row: ratio for each, ratio in zip(adapted, _ratios(adapted, lengths), strict=True)}
        for each in clipped:
            _descend(each, corrections[each.row], ratio=ratios.get(each.row, 1.0))


def _adapts(each: Clipped) -> bool:
    """Whether a tensor has a trust ratio."""
    return bool(each.moving.group["weight_decay"] or each.moving.group["always_adapt"])


def _corrections(clipped: Sequence[Clipped], finite: Tensor) -> dict[int, tuple[Scalar, Scalar]]:
    """Count a step of every parameter; what its moments are divided by, by its row: ``m`` and the root of ``v``."""
    found: dict[int, tuple[Scalar, Scalar]] = {}
    rows = {id(each.moving): each.row for each in clipped}
    for members in by_group([each.moving for each in clipped]):
        group = members[0].group
        before = gather(members, "step")
        step = torch.where(send(finite, before.device), before + 1, before)
        scatter(members, step=step)
        first, second = torch.ones_like(step), torch.ones_like(step)
        if group["bias_correction"]:
            beta1, beta2 = group["betas"]
            begun = step > 0  # not where the first one is skipped
            first = torch.where(begun, 1 - beta1**step, first)
            second = torch.where(begun, (1 - beta2**step).sqrt(), second)
        for each, one, two in zip(members, scalars(first), scalars(second), strict=True):
            found[rows[id(each)]] = one, two
    return found


def _take_in(each: Clipped, corrections: tuple[Scalar, Scalar]) -> list[Tensor]:
    """Let the moments take in the gradient; of an adapted weight and its update, this process's squared norms."""
    beta1, beta2 = each.moving.group["betas"]
    past, new = each.unless_skipped(1 - beta1), each.unless_skipped(1 - beta2)
    device = each.moving.gradient.device
    wide = torch.float32 if device.type == "mps" else torch.float64
    of_weight, of_update = torch.zeros(2, dtype=wide, device=device)
    for weight, gradient, first, second in each.rows("exp_avg", "exp_avg_sq"):
        if each.moving.group["grad_averaging"]:
            first.lerp_(gradient, past)
        else:
            first.mul_(1 - past).add_(gradient)
        second.lerp_(gradient.square(), new)
        if _adapts(each):
            update = _update(each, weight, first, second, corrections)
            of_weight += torch.dot(weight, weight)
            of_update += torch.dot(update, update)
    return [of_weight, of_update] if _adapts(each) else []


def _update(each: Clipped, weight: Tensor, first: Tensor, second: Tensor, corrections: tuple[Scalar, Scalar]) -> Tensor:
    """``m / (sqrt(v) + eps) + weight_decay * w`` of one piece, with both moments corrected."""
    group, (one, two) = each.moving.group, corrections
    update = first.div(one).div_(second.sqrt().div_(two).add_(group["eps"]))
    return update.add_(weight, alpha=group["weight_decay"]) if group["weight_decay"] else update


def _ratios(adapted: Sequence[Clipped], lengths: Sequence[Tensor]) -> Sequence[Scalar]:
    """``|w| / |u|`` of each tensor, of all processes' parts together."""
    if not adapted:
        return []
    device = lengths[0].device
    squares = torch.stack([send(length, device) for length in lengths])
    add_over_shards_(squares, [shards for each in adapted for shards in (each.moving.shards,) * 2])
    of_weight, of_update = squares.view(-1, 2).sqrt().unbind(dim=1)
    ratios = torch.where((of_weight > 0) & (of_update > 0), of_weight / of_update, 1.0)
    bound = torch.tensor([each.moving.group["trust_clip"] for each in adapted])
    ratios = torch.where(send(bound, device), ratios.clamp(max=1.0), ratios)
    found = scalars(ratios)
    return [
        send(r, e.moving.gradient.device) if isinstance(r, Tensor) else r for e, r in zip(adapted, found, strict=True)
    ]


def _descend(each: Clipped, corrections: tuple[Scalar, Scalar], *, ratio: Scalar) -> None:
    rate = each.unless_skipped(each.moving.group["lr"]) * ratio
    for weight, _, first, second in each.rows("exp_avg", "exp_avg_sq"):
        update = _update(each, weight, first, second, corrections)
        if isinstance(rate, Tensor):
            weight.sub_(update.mul_(rate))
        else:
            weight.sub_(update, alpha=rate)
