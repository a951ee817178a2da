"""How far two rankings agree: what a change of wording does to the images that are found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

Ranking = Int[Tensor, "*q n"] | Sequence[int]


@checked
def average_overlap(rank_a: Ranking, rank_b: Ranking, *, k: Count = 10) -> Float[Tensor, "*q"]:
    """Mean over the depths d = 1 to k of the fraction of common items among the first d of both; 1 for equal rankings.

    Early places count more: an item that both rank first is common at every depth.

    Source: arXiv 2402.15120, section 4 (AO@k), after Wu and Crestani (2003).

    Args:
        rank_a: items, best first, none twice: (n,) for one query or (q, n) for several, n >= k.
        rank_b: of the same shape.
        k: the depth.

    Returns:
        float64, one number, or (q,).
    """
    first, second = _checked(rank_a, rank_b, k=k)
    equal = first[..., :, None] == second[..., None, :]
    # An item at place i of one and j of the other is common from depth max(i, j) on.
    places = torch.arange(k, device=first.device)
    depth = torch.maximum(places[:, None], places[None, :])
    common = torch.stack([(equal & (depth <= at)).sum(dim=(-1, -2)) for at in range(k)], dim=-1)
    return (common / torch.arange(1, k + 1, device=first.device, dtype=torch.float64)).mean(dim=-1)


@checked
def jaccard_at(rank_a: Ranking, rank_b: Ranking, *, k: Count = 10) -> Float[Tensor, "*q"]:
    """Items common to the first k of both, over the items of either; the order among them does not matter.

    Source: arXiv 2402.15120, section 4 (JS@k).

    Args:
        rank_a: see ``average_overlap``.
        rank_b: see ``average_overlap``.
        k: the depth.
    """
    first, second = _checked(rank_a, rank_b, k=k)
    common = (first[..., :, None] == second[..., None, :]).sum(dim=(-1, -2)).double()
    return common / (2 * k - common)


@checked
def ranking(
    queries: Float[Tensor, "q d"], items: Float[Tensor, "n d"], *, k: Count = 10, block: Count = 1024
) -> Int[Tensor, "q k"]:
    """The k items of the largest dot product with each query, best first; of equal ones the first comes first.

    Args:
        queries: unit rows for cosines.
        items: unit rows.
        k: how many are wanted, at most n.
        block: queries that are compared at once.
    """
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise InputError(f"expected (q, d) and (n, d), got {tuple(queries.shape)} and {tuple(items.shape)}")
    if not 1 <= k <= len(items):
        raise InputError(f"k: expected 1 to {len(items)}, the number of items, got {k}")
    if not bool(queries.isfinite().all() and items.isfinite().all()):
        raise InputError("queries and items: expected finite numbers, got NaN or infinity")
    with torch.no_grad():
        found = [
            (part @ items.T).sort(dim=1, descending=True, stable=True).indices[:, :k] for part in queries.split(block)
        ]
    return torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64, device=queries.device)


def _checked(rank_a: Ranking, rank_b: Ranking, *, k: int) -> tuple[Tensor, Tensor]:
    first, second = (torch.as_tensor(rank) for rank in (rank_a, rank_b))
    if first.shape != second.shape or first.ndim not in (1, 2):
        raise InputError(
            f"expected two rankings (n,) or (q, n) of equal shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.is_floating_point() or second.is_floating_point():
        raise InputError(f"expected items as whole numbers, got {first.dtype} and {second.dtype}")
    if first.shape[-1] < k:
        raise InputError(f"k={k}: expected at least as many items, got {first.shape[-1]}")
    first, second = first[..., :k], second[..., :k]
    for name, rank in (("rank_a", first), ("rank_b", second)):
        ordered = rank.sort(dim=-1).values
        if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
            raise InputError(f"{name}: an item stands twice among the first {k}")
    return first, second
