"""Norms of output units: the rows and filters of weights and of their gradients, right under sharding.

The partner of ``core.norms``: there each tensor has one norm, here each of its units has one. A unit is what feeds one
output: a row of a linear weight, a filter of a convolution; vectors and scalars are one unit as a whole.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.norms import PIECE, GradientNorms, add_over_shards_, local_part, local_squares, named_pair
from tether.core.ranges import checked

UnitRule = Literal["nfnet", "timm"]
"""``nfnet``: the units of the released JAX code; ``timm``: those of ``timm.utils.agc``; ``unit_axes`` tells both."""

_FEW = 4
"""Where fewer than one unit in four changes, only those rows are written; above that the whole tensor is quicker."""


def unit_axes(shape: Sequence[int], *, rule: UnitRule = "nfnet") -> tuple[int, ...]:
    """The axes that number the units of a tensor in PyTorch's layout (outputs first); none: it is one unit.

    ``nfnet``: at most one axis longer than 1 is one unit, whatever the rank; two and four axes count along axis 0;
    three axes are summed over axis 0 only, as released for its multi-head weights; more than four, which the release
    refuses, count along axis 0 with a warning. ``timm``: vectors are one unit, everything else counts along axis 0.

    Args:
        shape: of the whole tensor, not of a shard.
        rule: whose units.
    """
    rank = len(shape)
    if rank <= 1:
        return ()
    if rule == "timm":
        return (0,)
    if sum(length > 1 for length in shape) <= 1:
        return ()
    if rank == 3:
        return (1, 2)
    if rank > 4:
        warnings.warn(
            f"a tensor of shape {tuple(shape)} has more than four axes, for which the nfnet rule names no units; "
            "each entry of axis 0 is taken as one",
            stacklevel=2,
        )
    return (0,)


@checked
def unitwise_norm(x: Tensor, *, rule: UnitRule = "nfnet") -> Tensor:
    """L2 norm of each unit, with every axis kept, so that it broadcasts over ``x``.

    Half precision is measured in float32.

    Args:
        x: a weight or a gradient in PyTorch's layout, outputs first.
        rule: whose units, see ``unit_axes``.

    Source: arXiv 2102.06171, section 4.1, and its released ``nfnets/optim.py``.
    """
    kept = unit_axes(x.shape, rule=rule)
    reduced = tuple(axis for axis in range(x.ndim) if axis not in kept)
    return torch.linalg.vector_norm(x, dim=reduced, keepdim=True, dtype=_wide(x))


@dataclass(frozen=True, slots=True)
class UnitNorms:
    """Norms of the units of every gradient and its weight, before anything is changed.

    Attributes:
        whole: the norm of each gradient and of all.
        shapes: for each gradient, the shape in which its units broadcast over this process's part; None where the
            tensor was left out and has no units here.
        gradient: (u,) norm of each unit of the gradients, tensor after tensor; units of other processes are not here.
        weight: (u,) norm of the same units of the weights.
        owners: (u,) which gradient each unit belongs to.
        totals: units of each whole tensor, over all processes; 0 where it was left out.
        split: for each gradient the process groups that hold its other units.
    """

    whole: GradientNorms
    shapes: tuple[tuple[int, ...] | None, ...]
    gradient: Float[Tensor, " u"]
    weight: Float[Tensor, " u"]
    owners: Int[Tensor, " u"]
    totals: tuple[int, ...]
    split: tuple[tuple[dist.ProcessGroup, ...], ...]

    @property
    def counts(self) -> list[int]:
        """Units of each tensor on this process."""
        return [0 if shape is None else math.prod(shape) for shape in self.shapes]

    def fraction(self, chosen: Bool[Tensor, " u"]) -> Float[Tensor, " n"]:
        """The share of each whole tensor's units that are chosen."""
        found = torch.zeros(len(self.shapes), dtype=self.gradient.dtype, device=self.gradient.device)
        if chosen.device.type != "cpu" or bool(chosen.any()):
            found.index_add_(0, self.owners, chosen.to(found.dtype))
        add_over_shards_(found, self.split)
        totals = torch.tensor(self.totals).clamp(min=1)
        return found / totals.to(found.device, non_blocking=True)

    def least(self, values: Float[Tensor, " u"]) -> Float[Tensor, " n"]:
        """The smallest value among each whole tensor's units; 1 where that is larger or there is none."""
        least = torch.ones(len(self.shapes), dtype=values.dtype, device=values.device)
        if values.device.type != "cpu" or bool((values < 1).any()):
            least.scatter_reduce_(0, self.owners, values, "amin")
        groups = {id(group): group for owned in self.split for group in owned}
        for key, group in groups.items():
            rows = [row for row, owned in enumerate(self.split) if any(id(member) == key for member in owned)]
            part = least[rows]
            dist.all_reduce(part, op=dist.ReduceOp.MIN, group=group)
            least[rows] = part
        return least


@torch.no_grad()
def unit_norms(
    named_params: Iterable[tuple[str, nn.Parameter]],
    *,
    rule: UnitRule = "nfnet",
    leave_out: Callable[[str], bool] = lambda name: False,
) -> UnitNorms:
    """Measure every unit of every ``.grad`` and of its weight, reading each once; nothing is changed.

    A ``DTensor`` counts whole: where a unit is cut by the sharding, squares are added for each unit; where it is not,
    as with rows sharded over axis 0, its norm is local. Every process must come here with the same parameters.

    Args:
        named_params: pairs as ``module.named_parameters()`` gives them; a parameter met twice counts once, one without
            gradient is left out.
        rule: whose units, see ``unit_axes``.
        leave_out: given a name, whether that tensor has no units; it counts in the global norm all the same.
    """
    names, gradients, weights = [], [], []
    split, cut = [], []
    kepts: list[tuple[int, ...] | None] = []
    totals: list[int] = []
    seen: set[int] = set()
    for item in named_params:
        name, parameter = named_pair(item)
        if parameter.grad is None or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        gradient, groups = local_part(name, parameter.grad)
        weight, _ = local_part(name, parameter.detach())
        axes = _sharded_axes(parameter.grad)
        if axes != _sharded_axes(parameter) or gradient.shape != weight.shape:
            raise InputError(f"gradient of {name!r}: expected it to be sharded as its weight is")
        kept = None if leave_out(name) else unit_axes(parameter.shape, rule=rule)
        names.append(name)
        gradients.append(gradient)
        weights.append(weight)
        kepts.append(kept)
        apart = range(parameter.ndim) if kept is None else kept  # without units the shards' squares are simply added
        split.append(tuple(group for group, axis in zip(groups, axes, strict=True) if axis in apart))
        cut.append(tuple(group for group, axis in zip(groups, axes, strict=True) if axis not in apart))
        totals.append(0 if kept is None else math.prod(parameter.shape[axis] for axis in kept))
    if not gradients:
        none = torch.zeros(0, dtype=torch.float64)
        return UnitNorms(GradientNorms((), (), none), (), none, none, none.long(), (), ())
    target = gradients[0].device
    shapes = [None if kept is None else _shape(gradient, kept) for gradient, kept in zip(gradients, kepts, strict=True)]
    counts = [0 if shape is None else math.prod(shape) for shape in shapes]
    of_gradients, of_weights = _local_lengths(gradients, kepts, target), _local_lengths(weights, kepts, target)
    _add_for_each_unit_((of_gradients, of_weights), counts, cut)
    owners = _owners(tuple(counts), target)
    squares = _whole_squares(gradients, kepts, of_gradients, owners)
    add_over_shards_(squares, split)
    return UnitNorms(
        GradientNorms(tuple(names), tuple(gradients), squares),
        tuple(shapes),
        of_gradients,
        of_weights,
        owners,
        tuple(totals),
        tuple(split),
    )


@torch.no_grad()
def scale_units_(norms: UnitNorms, *, factor: Float[Tensor, " u"], skip: Bool[Tensor, ""]) -> None:
    """Multiply each unit's gradient by its factor, or set every gradient to zero where ``skip`` holds.

    On the CPU a tensor whose factors are all 1 is not touched, and where few are below 1 only those rows are. On an
    accelerator the factors are multiplied in without waiting for their values; one that is 1 leaves every bit.

    Args:
        norms: what ``unit_norms`` gave.
        factor: (u,) of each unit, in its order.
        skip: 0-d bool; True sets every gradient to zero, also those without units and where it was NaN.
    """
    gradients = norms.whole.gradients
    if not gradients:
        return
    if factor.device.type != "cpu" or any(gradient.device.type != "cpu" for gradient in gradients):
        for gradient, shape, mine in zip(gradients, norms.shapes, factor.split(norms.counts), strict=True):
            scale_without_waiting_(gradient, None if shape is None else mine.view(shape), skip=skip)
    elif bool(skip):
        torch._foreach_zero_(list(gradients))
    else:
        _scale_changed_(norms, factor)


def scale_without_waiting_(gradient: Tensor, factor: Tensor | None, *, skip: Bool[Tensor, ""]) -> None:
    """Multiply by a factor that broadcasts, then clear where ``skip`` holds; no value is looked at."""
    if factor is not None:
        gradient.mul_(factor.to(device=gradient.device, dtype=gradient.dtype, non_blocking=True))
    gradient.masked_fill_(skip.to(gradient.device, non_blocking=True), 0.0)


def _scale_changed_(norms: UnitNorms, factor: Float[Tensor, " u"]) -> None:
    """Multiply on the CPU where a factor is not 1, and touch no other tensor."""
    changed = (factor != 1).nonzero().flatten()
    if not len(changed):
        return
    rows, many = torch.unique_consecutive(norms.owners[changed], return_counts=True)
    starts = [0, *accumulate(norms.counts)]
    for row, units in zip(rows.tolist(), changed.split(many.tolist()), strict=True):
        gradient, shape = norms.whole.gradients[row], norms.shapes[row] or ()
        mine = factor[starts[row] : starts[row + 1]].to(gradient.dtype)
        if shape[:1] == (len(mine),) and _FEW * len(units) < len(mine):
            within = units - starts[row]
            few = mine[within].view(-1, *([1] * (gradient.ndim - 1)))
            gradient.index_copy_(0, within, gradient.index_select(0, within).mul_(few))
        else:
            gradient.mul_(mine.view(shape))


def _wide(x: Tensor) -> torch.dtype | None:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None


def _sharded_axes(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's axes that its shards cut, in the order in which ``local_part`` gives their groups."""
    if not (dist.is_available() and dist.is_initialized()):
        return ()
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(tensor, DTensor):
        return ()
    sharded = [placement for placement in tensor.placements if not isinstance(placement, Replicate)]
    return tuple(placement.dim for placement in sharded)  # pyrefly: ignore - sums are refused, so these are shards


@functools.lru_cache(maxsize=8)
def _owners(counts: tuple[int, ...], device: torch.device) -> Int[Tensor, " u"]:
    """Which tensor each unit belongs to; the same from step to step, so it is kept."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device, non_blocking=True)


def _shape(local: Tensor, kept: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(local.shape[axis] if axis in kept else 1 for axis in range(local.ndim))


def _local_lengths(
    tensors: Sequence[Tensor], kepts: Sequence[tuple[int, ...] | None], target: torch.device
) -> Float[Tensor, " u"]:
    """Norms of the units, tensor after tensor, of what this process holds; float64 where the device has it."""
    wide = torch.float32 if target.type == "mps" else torch.float64
    wholes = [tensor for tensor, kept in zip(tensors, kepts, strict=True) if kept == ()]
    of_wholes = iter(local_squares(wholes).sqrt().split(1) if wholes else ())
    pieces = [
        next(of_wholes) if kept == () else _lengths(tensor, kept)
        for tensor, kept in zip(tensors, kepts, strict=True)
        if kept is not None
    ]
    if not pieces:
        return torch.zeros(0, dtype=wide, device=target)
    lengths = torch.cat([piece.to(target, non_blocking=True) for piece in pieces]).to(wide)
    if target.type == "cpu" and not math.isfinite(lengths.sum()):
        return _measured_wide(tensors, kepts)
    return lengths


def _measured_wide(tensors: Sequence[Tensor], kepts: Sequence[tuple[int, ...] | None]) -> Float[Tensor, " u"]:
    """The same in float64 throughout: finite numbers whose squares overflow float32 are not taken for infinite."""
    pieces = []
    for tensor, kept in zip(tensors, kepts, strict=True):
        if kept is not None:
            reduced = tuple(axis for axis in range(tensor.ndim) if axis not in kept)
            pieces.append(torch.linalg.vector_norm(tensor, dim=reduced, dtype=torch.float64).flatten())
    return torch.cat(pieces)


def _lengths(tensor: Tensor, kept: tuple[int, ...]) -> Float[Tensor, " u"]:
    """Norms along the kept axes, in float32 where that is exact to about 1e-6."""
    units = math.prod(tensor.shape[axis] for axis in kept)
    if tensor.numel() == 0:
        return torch.zeros(units, dtype=torch.float32, device=tensor.device)
    reduced = tuple(axis for axis in range(tensor.ndim) if axis not in kept)
    if kept == (0,) and tensor.is_contiguous():
        tensor, reduced = tensor.view(units, -1), (1,)
    long = tensor.device.type == "cpu" and tensor.numel() > PIECE * units
    return torch.linalg.vector_norm(tensor, dim=reduced, dtype=torch.float64 if long else _wide(tensor)).flatten()


def _add_for_each_unit_(
    lengths: Sequence[Tensor], counts: Sequence[int], cut: Sequence[tuple[dist.ProcessGroup, ...]]
) -> None:
    """Make the norms of units that the sharding cuts those of the whole units, in one call for each group."""
    groups = {id(group): group for owned in cut for group in owned}
    if not groups:
        return
    starts = [0, *accumulate(counts)]
    squares = [each.square() for each in lengths]
    touched: set[int] = set()
    for key, group in groups.items():
        rows = [row for row, owned in enumerate(cut) if any(id(member) == key for member in owned)]
        touched.update(rows)
        where = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in rows]).to(lengths[0].device)
        part = torch.cat([each[where] for each in squares])
        dist.all_reduce(part, group=group)
        for each, summed in zip(squares, part.split(len(where)), strict=True):
            each[where] = summed
    for each, square in zip(lengths, squares, strict=True):
        for row in sorted(touched):
            mine = slice(starts[row], starts[row + 1])
            each[mine] = square[mine].sqrt()


def _whole_squares(
    gradients: Sequence[Tensor], kepts: Sequence[tuple[int, ...] | None], lengths: Tensor, owners: Tensor
) -> Float[Tensor, " n"]:
    """Squared norm of each gradient: the sum over its units, or a pass of its own where it has none."""
    squares = torch.zeros(len(gradients), dtype=lengths.dtype, device=lengths.device)
    squares.index_add_(0, owners, lengths.square())
    left_out = [row for row, kept in enumerate(kepts) if kept is None]
    if left_out:
        squares[left_out] = local_squares([gradients[row] for row in left_out]).to(squares)
    return squares
