"""A memory of what is normal: how far rows are from it, and how it is kept small."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.heads.defect_adapters import nearest_rows

_NARROW = 64
"""Width of the random projection in which the choice of a memory's rows is made."""


def association(rows: Float[Tensor, "n d"], memory: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    """Half of one minus the cosine to the nearest row of a memory: 0 for the same direction, 1 for the opposite.

    Source: arXiv 2303.14814, equation 4.

    Args:
        rows: of any length.
        memory: likewise, one row at least.

    Example:
        >>> import torch
        >>> from tether.tasks.anomaly.memory import association
        >>> association(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.tensor([[1.0, 0.0]])).tolist()
        [0.0, 0.5]
    """
    if not len(memory) or rows.shape[-1] != memory.shape[-1]:
        raise InputError(f"memory: expected (m, {rows.shape[-1]}) with m > 0, got {tuple(memory.shape)}")
    _, cosine = nearest_rows(F.normalize(rows, dim=1)[None], F.normalize(memory, dim=1)[None])
    return ((1 - cosine[0]) / 2).clamp(0, 1)


@checked
def core_set(rows: Float[Tensor, "n d"], *, size: Count) -> Int[Tensor, " k"]:
    """Rows that lie near all others: greedy k-centre, each the farthest in direction from those chosen before.

    The first is the farthest from the mean. Distances are taken in 64 random directions where rows are wider, as
    PatchCore does (arXiv 2106.08265, section 3.2); the same rows give the same choice.

    Args:
        rows: n of them.
        size: of the choice; all rows where there are no more.

    Returns:
        (k,) their numbers, rising.

    Example:
        >>> import torch
        >>> from tether.tasks.anomaly.memory import core_set
        >>> core_set(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [-1.0, 0.0]]), size=3).tolist()
        [0, 2, 3]
    """
    if len(rows) <= size:
        return torch.arange(len(rows))
    rows = F.normalize(rows.float(), dim=1)
    if rows.shape[1] > _NARROW:
        drawn = torch.randn(rows.shape[1], _NARROW, generator=torch.Generator().manual_seed(0))
        rows = rows @ drawn.to(rows) / _NARROW**0.5
    square = rows.square().sum(dim=1)
    away = (rows - rows.mean(dim=0)).square().sum(dim=1)
    far = torch.full_like(square, torch.inf)
    chosen = []
    for _ in range(size):
        chosen.append(int(away.argmax()))
        centre = rows[chosen[-1]]
        far = torch.minimum(far, square - 2 * (rows @ centre) + square[chosen[-1]])
        far[chosen[-1]] = -torch.inf
        away = far
    return torch.tensor(sorted(chosen))


@checked
def memory_of(parts: Iterable[Float[Tensor, "n d"]], *, size: Count) -> Float[Tensor, "m d"]:
    """At most ``size`` rows that stand for all that come, of which never more than twice as many are held.

    Args:
        parts: rows, such as the patches of one image after another.
        size: of the memory.

    Raises:
        InputError: not one row.
    """
    held: list[Tensor] = []
    for part in parts:
        held.append(part)
        if sum(map(len, held)) > 2 * size:
            held = [_chosen(held, size)]
    if not held:
        raise InputError("good images: expected one at least, got none")
    return _chosen(held, size)


def _chosen(held: list[Tensor], size: int) -> Float[Tensor, "m d"]:
    rows = torch.cat(held)
    return rows[core_set(rows, size=size).to(rows.device)]
