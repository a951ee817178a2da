"""What the optimisers that clip their own gradients share: the scope of a limit, and the step they refuse."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.norms import add_over_shards_, local_squares, send
from tether.optim.optimizer_base import Moving, Scalar, Stepper, by_group, pieces, readable, scalars

ClipScope = Literal["global", "tensor", "element", "none"]
"""What one limit bounds: the norm of all gradients, of each tensor, each entry, or nothing."""


@dataclass(frozen=True, slots=True)
class Clipped:
    """One parameter and how its gradient is clipped.

    Attributes:
        moving: the parameter.
        factor: multiplies the gradient; 0 in a step that is skipped.
        bound: largest absolute entry, or None.
        finite: 0-d bool, whether the step is taken; None where the host knows that it is.
        row: its place among the squared norms.
    """

    moving: Moving
    factor: Scalar
    bound: float | None
    finite: Tensor | None
    row: int

    def clip(self, gradient: Tensor) -> Tensor:
        """A clipped piece of the gradient; zeros in a step that is skipped. May be the piece itself."""
        if self.bound is not None:
            gradient = gradient.clamp(-self.bound, self.bound)
        elif not (isinstance(self.factor, float) and self.factor == 1.0):
            gradient = gradient * self.factor
        return gradient if self.finite is None else torch.where(self.finite, gradient, 0.0)

    def unless_skipped(self, value: float) -> Scalar:
        """The value, or 0 in a step that is skipped."""
        return value if self.finite is None else torch.where(self.finite, value, 0.0)

    def rows(self, *keys: str) -> Iterator[tuple[Tensor, ...]]:
        """Flat pieces of the weight (wide, to be changed in place), of the clipped gradient and of the state's tensors.

        A half-precision weight is changed in float32 and rounded once.
        """
        weight = self.moving.weight
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        flat = weight.view(-1) if weight.is_contiguous() else weight.reshape(-1)
        states = [self.moving.local(key) for key in keys]
        for w, g, *own in pieces(flat, self.moving.gradient.reshape(-1), *states):
            work = w if w.dtype == wide else w.to(wide)
            yield work, self.clip(g.to(wide)), *own
            if work is not w:
                w.copy_(work)
        if not weight.is_contiguous():
            weight.copy_(flat.view_as(weight))

    def decay_(self, weight: Tensor) -> None:
        """Take the decoupled weight decay off a piece, after the step."""
        share = self.moving.group["lr"] * self.moving.group["weight_decay"]
        if share:
            taken = self.unless_skipped(share)
            weight.mul_(1.0 - taken)


class ClippedOptimizer(Stepper):
    """Clips the gradients, in each group as it says, before anything else sees them; ``.grad`` is left alone.

    If the global norm of the gradients is not finite the whole step is skipped: no weight and no state is changed.
    """

    def _advance(self, moving: Sequence[Moving]) -> None:
        squares = local_squares([each.gradient for each in moving])
        add_over_shards_(squares, [each.shards for each in moving])
        finite = squares.sum().isfinite()
        known = readable(finite)
        if known and not bool(finite):
            return
        for each in moving:
            if not each.state:
                self._begin(each)
        place = {id(each): row for row, each in enumerate(moving)}
        clipped: list[Clipped] = []
        after = squares.clone()
        for members in by_group(moving):
            device = members[0].gradient.device
            places = [place[id(each)] for each in members]
            rows = send(torch.tensor(places), squares.device)
            factor = _factors(members[0].group, whole=squares, own=squares.index_select(0, rows))
            after.index_copy_(0, rows, after.index_select(0, rows) * factor.square())
            bound = members[0].group["clip"] if members[0].group["clip_scope"] == "element" else None
            ok = None if known else send(finite, device)
            clipped += [
                Clipped(each, each_factor, bound, ok, row)
                for each, each_factor, row in zip(members, scalars(send(factor, device)), places, strict=True)
            ]
        self._move(clipped, squares=after, finite=finite)

    @abc.abstractmethod
    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        """Move the weights; without effect where ``finite`` does not hold (on a CPU it always does).

        Args:
            clipped: the parameters.
            squares: squared norm of each whole gradient as ``factor`` leaves it; a ``bound`` is not seen in it.
            finite: whether the global norm is.
        """


def _factors(group: dict[str, Any], *, whole: Float[Tensor, " n"], own: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """What each gradient of a group is multiplied by."""
    scope = group["clip_scope"]
    if scope in ("element", "none"):
        return torch.ones_like(own)
    norm = own.sqrt() if scope == "tensor" else whole.sum().sqrt().expand_as(own)
    ratio = group["clip"] / (norm + group["clip_eps"])
    return torch.where(norm.isfinite(), ratio.clamp(max=1.0), 0.0)
