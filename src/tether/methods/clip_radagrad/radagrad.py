"""Clip-RAdaGradD: AdaGrad on clipped gradients, with a step size that today's gradient does not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.norms import add_over_shards_, local_squares, send
from tether.core.ranges import NonNegative, Positive, PositiveRate, Rate, checked
from tether.optim.clipping_optimizer import Clipped, ClippedOptimizer, ClipScope
from tether.optim.optimizer_base import (
    Scalar,
    new_figure,
    pieces,
    readable,
)
from tether.optim.param_groups import Params


@final
class ClipRAdaGradD(ClippedOptimizer):
    """AdaGrad whose gradients are clipped before they enter the step and the accumulator.

    With the clipped gradient ``g``: ``w -= lr / (b + eps) * g`` and ``b^2 += eta * |g|^2``. ``norm`` keeps one ``b``
    over all parameters of the optimiser, ``coordinate`` one for each entry. Delayed, the step uses the ``b`` from
    before; else the new one. ``clip_scope="none"``, ``eta=1`` and ``delayed=False`` take away the clipping, the
    re-weighting and the delay one by one: plain AdaGrad and the siblings of the paper are settings of this class.

    Source: arXiv 2406.04443, algorithm 2, and the released notebook. Under heavy-tailed noise AdaGrad without clipping
    is not safe with high probability; with it, it is. ``b`` never shrinks: not for long runs whose data change.

    Of our own: a step whose global norm is not finite is skipped, where the released code's ``b`` is NaN ever after.

    Example:
        >>> import torch
        >>> from tether.methods.clip_radagrad import ClipRAdaGradD
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = ClipRAdaGradD([weight], lr=0.1, clip=1.0)
        >>> for step in range(100):
        ...     optimizer.zero_grad()
        ...     (weight.square().sum() * (1e6 if step == 50 else 1)).backward()  # one bad batch
        ...     optimizer.step()
        >>> abs(weight.item()) < 0.1
        True
    """

    figures: ClassVar[frozenset[str]] = frozenset({"square"})
    common: ClassVar[frozenset[str]] = figures

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: PositiveRate = 0.1,
        clip: Positive = 1.0,
        eta: Positive | None = None,
        b0: Positive = 1.0,
        mode: Literal["norm", "coordinate"] = "norm",
        clip_scope: ClipScope = "global",
        delayed: bool = True,
        eps: NonNegative = 0.0,
        clip_eps: NonNegative = 0.0,
        weight_decay: Rate = 0.0,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: step size before the schedule.
            clip: the limit.
            eta: weight of a new square in the accumulator; None takes the square of ``lr`` as it is given here,
                the paper's re-weighting. A schedule does not change it.
            b0: square root of the accumulator at the start. The first step may be as long as ``lr * clip / b0``.
            mode: ``norm``, the paper's, or ``coordinate``, which networks are trained with.
            clip_scope: what the limit bounds: the norm of all gradients (``global``), of each ``tensor``, each
                ``element``, or ``none``. They give different paths.
            delayed: whether the step uses the accumulator from before it.
            eps: added to ``b``.
            clip_eps: added to the norm that the limit is divided by; torch's own clipping has 1e-6.
            weight_decay: share of the weight, times the learning rate, taken off after each step.
        """
        super().__init__(params, locals())

    def _complete(self, group: dict[str, Any]) -> None:
        first = self.param_groups[0]
        for key in ("mode", "b0")[: 2 if group["mode"] == "norm" else 1]:
            if group[key] != first[key]:
                raise InputError(
                    f"ClipRAdaGradD: {key}: expected the same in every group ({first[key]!r}), got {group[key]!r}"
                )
        if group["eta"] is None:
            group["eta"] = group["lr"] ** 2

    @property
    def b(self) -> Float[Tensor, ""]:
        """Root of the accumulator; with coordinates, of the sum of all that this process holds (0 before any step)."""
        norm = self.param_groups[0]["mode"] == "norm"
        squares = [state["square" if norm else "squares"] for state in self.state.values() if state]
        if not squares:
            return torch.tensor(self.param_groups[0]["b0"] if norm else 0.0)
        return squares[0].sqrt() if norm else torch.stack([square.sum() for square in squares]).sum().sqrt()

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"squares": group["b0"] ** 2} if group["mode"] == "coordinate" else {}

    def _keys(self, group: Mapping[str, Any]) -> set[str]:
        return set(self._tensors(group) or self.figures)

    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        if clipped[0].moving.group["mode"] == "norm":
            self._move_by_norm(clipped, squares, finite)
            return
        for each in clipped:
            group = each.moving.group
            for weight, gradient, accumulator in each.rows("squares"):
                coordinate_step_(
                    weight,
                    gradient,
                    accumulator,
                    lr=group["lr"],
                    eta=group["eta"],
                    eps=group["eps"],
                    delayed=group["delayed"],
                )
                each.decay_(weight)

    def _move_by_norm(self, clipped: Sequence[Clipped], squares: Tensor, finite: Tensor) -> None:
        moving = [each.moving for each in clipped]
        start = new_figure(moving[0].gradient.device, value=moving[0].group["b0"] ** 2)
        square = self._common("square", start, moving=moving)
        weights = torch.tensor([each.moving.group["eta"] for each in clipped], dtype=squares.dtype)
        added = (send(weights, squares.device) * _squares_within_bounds(clipped, squares)).sum()
        grown = torch.where(finite, square + send(added, square.device), square)
        before, after = _known(square.sqrt()), _known(grown.sqrt())
        for each in clipped:
            group = each.moving.group
            b = before if group["delayed"] else after
            if isinstance(b, Tensor):
                b = send(b, each.moving.weight.device)
            rate = group["lr"] / (b + group["eps"])
            for weight, gradient in each.rows():
                if isinstance(rate, Tensor):
                    weight.sub_(gradient * rate)
                else:
                    weight.add_(gradient, alpha=-rate)
                each.decay_(weight)
        square.copy_(grown)


def coordinate_step_(
    weight: Float[Tensor, " n"],
    gradient: Float[Tensor, " n"],
    squares: Float[Tensor, " n"],
    *,
    lr: float,
    eta: float,
    eps: float,
    delayed: bool,
) -> None:
    """One AdaGrad step in place: each entry has its own accumulator, which grows after the step if ``delayed``."""
    if not delayed:
        squares.addcmul_(gradient, gradient, value=eta)
    weight.addcdiv_(gradient, squares.sqrt().add_(eps), value=-lr)
    if delayed:
        squares.addcmul_(gradient, gradient, value=eta)


def _squares_within_bounds(clipped: Sequence[Clipped], squares: Tensor) -> Float[Tensor, " n"]:
    """Squared norms in the order of ``clipped``; those of gradients with bounded entries are measured anew."""
    rows = send(torch.tensor([each.row for each in clipped]), squares.device)
    found = squares.index_select(0, rows)
    bounded = [place for place, each in enumerate(clipped) if each.bound is not None]
    if not bounded:
        return found
    lengths = []
    for place in bounded:
        each = clipped[place]
        parts = [local_squares([each.clip(part)]) for (part,) in pieces(each.moving.gradient.reshape(-1))]
        lengths.append(send(torch.cat(parts).sum(), squares.device) if parts else torch.zeros_like(found[0]))
    measured = torch.stack(lengths)
    add_over_shards_(measured, [clipped[place].moving.shards for place in bounded])
    return found.index_copy_(0, send(torch.tensor(bounded), squares.device), measured)


def _known(value: Tensor) -> Scalar:
    return float(value) if readable(value) else value
