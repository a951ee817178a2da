"""Gradient norms in one pass, right under DDP, FSDP2 and tensor parallelism, and scaling that spares untouched tensors.

On the CPU a norm is a chain of ``torch.dot`` over short pieces, added up in float64: as fast as one read of the memory,
and exact to about 1e-7 where float32 accumulation of a 38 M element table loses 1e-3. On an accelerator it is one
``foreach`` kernel and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError

PIECE = 1 << 20
"""Elements per ``torch.dot``: few enough terms that float32 sums stay exact to 1e-7, too many to feel the calls."""


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """Norms of every gradient of a model, before anything is changed.

    Attributes:
        names: of the n parameters that have a gradient, each parameter once, in the order given.
        gradients: this process's part of each gradient, as real tensors that share the gradient's memory.
        squares: (n,) squared L2 norm of each whole gradient, float64 (float32 where a device has no float64).
    """

    names: tuple[str, ...]
    gradients: tuple[Tensor, ...]
    squares: Float[Tensor, " n"]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Global L2 norm; 0 when there is no gradient."""
        return self.squares.sum().sqrt()

    @property
    def each(self) -> Float[Tensor, " n"]:
        """L2 norm of each gradient."""
        return self.squares.sqrt()


@torch.no_grad()
def gradient_norms(named_params: Iterable[tuple[str, nn.Parameter]]) -> GradientNorms:
    """Measure the L2 norm of every ``.grad`` in one pass; nothing is changed.

    A ``DTensor`` counts whole: squares of the local parts are added over the mesh dimensions that shard it, all
    tensors of a mesh in one call, so every process must come here with the same parameters. Complex gradients count
    both parts; a parameter met twice counts once; a parameter without gradient is left out. A gradient that is finite
    but whose squares overflow float32 is measured again in float64 on the CPU; elsewhere it counts as infinite.

    Args:
        named_params: pairs as ``module.named_parameters()`` gives them.

    Raises:
        InputError: not pairs of name and parameter, or a gradient that is sparse or of whole numbers.
    """
    names, gradients, shards = [], [], []
    seen: set[int] = set()
    for item in named_params:
        name, parameter = named_pair(item)
        gradient = parameter.grad
        if gradient is None or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        local, shard = local_part(name, gradient)
        names.append(name)
        gradients.append(local)
        shards.append(shard)
    if not gradients:
        return GradientNorms((), (), torch.zeros(0, dtype=torch.float64))
    squares = local_squares(gradients)
    add_over_shards_(squares, shards)
    return GradientNorms(tuple(names), tuple(gradients), squares)


@torch.no_grad()
def scale_gradients_(norms: GradientNorms, *, factor: Tensor, skip: Tensor) -> None:
    """Multiply the gradients by ``factor``, or set them to zero where ``skip`` holds.

    On the CPU a factor of 1 touches nothing. On an accelerator the factor is multiplied in without waiting for its
    value; one that is 1 leaves every bit as it was.

    Args:
        norms: what ``gradient_norms`` gave.
        factor: 0-d, for all gradients, or (n,), one for each.
        skip: 0-d bool; True sets every gradient to zero, also where it was NaN.
    """
    if not norms.gradients:
        return
    if factor.device.type == "cpu" and all(gradient.device.type == "cpu" for gradient in norms.gradients):
        _scale_on_cpu_(norms.gradients, factor, skip=bool(skip))
        return
    factors = factor.expand(len(norms.gradients))
    order = sorted(range(len(norms.gradients)), key=lambda row: _kind(norms.gradients[row]))
    for _, group in groupby(order, key=lambda row: _kind(norms.gradients[row])):
        rows = list(group)
        members = [norms.gradients[row] for row in rows]
        chosen = send(factors.index_select(0, _places(rows, like=factors)), members[0].device).to(members[0].dtype)
        mask = send(skip, members[0].device)
        if factor.ndim == 0:
            torch._foreach_mul_(members, chosen[0])
        else:
            torch._foreach_mul_(members, list(chosen.unbind()))
        for member in members:
            member.masked_fill_(mask, 0.0)


def _scale_on_cpu_(gradients: Sequence[Tensor], factor: Tensor, *, skip: bool) -> None:
    if skip:
        torch._foreach_zero_(list(gradients))
        return
    values = [float(factor)] * len(gradients) if factor.ndim == 0 else factor.tolist()
    for gradient, value in zip(gradients, values, strict=True):
        if value != 1.0:
            gradient.mul_(value)


def named_pair(item: object) -> tuple[str, nn.Parameter]:
    """The item itself, if it is what ``module.named_parameters()`` gives; else an InputError."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], Tensor):
        return item  # pyrefly: ignore
    raise InputError(
        f"expected pairs (name, parameter) as module.named_parameters() gives them, got {type(item).__name__}"
    )


def local_part(name: str, gradient: Tensor) -> tuple[Tensor, tuple[dist.ProcessGroup, ...]]:
    """This process's part of a gradient or weight, and the groups over which its squares must be added.

    Complex numbers come as real ones, two for each, which share the memory.

    Raises:
        InputError: a sparse tensor, whole numbers, or a sum still pending over processes.
    """
    if gradient.layout != torch.strided:
        raise InputError(
            f"gradient of {name!r}: expected a dense tensor, got {gradient.layout}; build the module with sparse=False"
        )
    if not (gradient.is_floating_point() or gradient.is_complex()):
        raise InputError(f"gradient of {name!r}: expected real or complex numbers, got {gradient.dtype}")
    groups: tuple[dist.ProcessGroup, ...] = ()
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.tensor import DTensor, Replicate

        if isinstance(gradient, DTensor):
            mesh, placements = gradient.device_mesh, gradient.placements
            if any(placement.is_partial() for placement in placements):
                raise InputError(f"gradient of {name!r}: a pending sum {placements} cannot be clipped; reduce it first")
            groups = tuple(mesh.get_group(i) for i, p in enumerate(placements) if not isinstance(p, Replicate))
            gradient = gradient.to_local()
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient), groups


def local_squares(gradients: Sequence[Tensor]) -> Float[Tensor, " n"]:
    """Squared L2 norm of what this process holds of each; (n,) float64 where the device has it."""
    target = gradients[0].device
    wide = torch.float32 if target.type == "mps" else torch.float64
    squares = torch.zeros(len(gradients), dtype=wide, device=target)
    on_cpu = [row for row, gradient in enumerate(gradients) if gradient.device.type == "cpu"]
    if on_cpu:
        values = _squares_on_cpu([gradients[row] for row in on_cpu])
        squares.index_copy_(0, _places(on_cpu, like=squares), send(values, target).to(wide))
    others = sorted(
        (row for row, g in enumerate(gradients) if g.device.type != "cpu"), key=lambda r: _kind(gradients[r])
    )
    for _, group in groupby(others, key=lambda row: _kind(gradients[row])):
        rows = list(group)
        members = [gradients[row] for row in rows]
        narrow = members[0].dtype in (torch.float16, torch.bfloat16)
        lengths = torch._foreach_norm(members, 2, torch.float32 if narrow else None)
        squares.index_copy_(0, _places(rows, like=squares), send(torch.stack(lengths), target).to(wide).square())
    return squares


def _squares_on_cpu(gradients: Sequence[Tensor]) -> Tensor:
    pieces: list[Tensor] = []
    owners: list[int] = []
    for row, gradient in enumerate(gradients):
        if gradient.dtype not in (torch.float32, torch.float64) or not gradient.is_contiguous():
            wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
            pieces.append(torch.linalg.vector_norm(gradient, dtype=wide).square())
            owners.append(row)
            continue
        flat = gradient.view(-1)
        for piece in flat.split(PIECE) if flat.numel() > PIECE else (flat,):
            pieces.append(torch.dot(piece, piece))
            owners.append(row)
    values = torch.cat([piece.view(1) for piece in pieces]).double()
    squares = torch.zeros(len(gradients), dtype=torch.float64).index_add_(0, torch.tensor(owners), values)
    for row in (~squares.isfinite()).nonzero().flatten().tolist():
        squares[row] = torch.linalg.vector_norm(gradients[row], dtype=torch.float64).square()
    return squares


def add_over_shards_(squares: Tensor, shards: Sequence[tuple[dist.ProcessGroup, ...]]) -> None:
    """Add the local squares over the groups that hold the other parts: one call for each group."""
    groups = {id(group): group for owned in shards for group in owned}
    for key, group in groups.items():
        rows = [row for row, owned in enumerate(shards) if any(id(member) == key for member in owned)]
        places = _places(rows, like=squares)
        part = squares.index_select(0, places)
        dist.all_reduce(part, group=group)
        squares.index_copy_(0, places, part)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on another device; only the way down to the CPU waits, since what follows there would not."""
    return tensor.to(device, non_blocking=device.type != "cpu")


def _places(rows: Sequence[int], *, like: Tensor) -> Tensor:
    """An index on a device; a list in brackets would be sent there too, but waited for."""
    return send(torch.tensor(rows), like.device)


def _kind(tensor: Tensor) -> tuple[str, str]:
    return str(tensor.device), str(tensor.dtype)
