"""Retrieval where many answers are right: how many of the first results share the query's findings."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.evaluate.retrieval import Depths


@checked
def shared_precision(
    similarity: Float[Tensor, "q n"],
    *,
    queries: Tensor,
    candidates: Tensor,
    k: Depths = (1, 5, 10),
    match: Literal["any", "all"] = "any",
) -> dict[str, float | None]:
    """Precision at k by findings, under ``precision_at_1``..., mean over the queries that have something to find.

    Recall at k takes one report for right and a report of the same words for wrong; this does not.

    Source: arXiv 2312.07353, on cross-modal retrieval.

    Args:
        similarity: higher ranks first; of equal ones the first candidate.
        queries: (q, f) findings of each query: above 0 present, -1 or NaN uncertain.
        candidates: (n, f) the same of each candidate.
        k: the depths; more than n are n.
        match: a result is right if it shares ``any`` finding, or where ``all`` certain findings are alike, absent ones
            too. With ``any`` a query without findings has nothing to find.

    Returns:
        For each depth the mean, None where no query has anything to find.
    """
    shape = (len(queries), len(candidates))
    if tuple(similarity.shape) != shape or queries.ndim != 2 or queries.shape[1:] != candidates.shape[1:] or 0 in shape:
        raise InputError(
            f"expected similarity (q, n), queries (q, f) and candidates (n, f), got {tuple(similarity.shape)}, "
            f"{tuple(queries.shape)} and {tuple(candidates.shape)}"
        )
    if similarity.isnan().any():
        raise InputError("similarity: holds NaN")
    right = _right(queries.cpu(), candidates.cpu(), match=match)
    asked = right.any(dim=1)
    order = similarity.cpu().argsort(dim=1, descending=True, stable=True)
    ordered = right.gather(1, order)[asked].double()
    found: dict[str, float | None] = {}
    for depth in k:
        top = ordered[:, : min(depth, shape[1])]
        found[f"precision_at_{depth}"] = float(top.mean()) if len(top) else None
    return found


def _right(queries: Tensor, candidates: Tensor, *, match: str) -> Tensor:
    one, two = ((rows > 0).double() for rows in (queries, candidates))
    shared = one @ two.T
    if match == "any":
        return shared > 0
    sure_one, sure_two = ((~(rows.isnan() | (rows == -1))).double() for rows in (queries.double(), candidates.double()))
    one, two = one * sure_one, two * sure_two
    unlike = one @ (sure_two * (1 - two)).T + (sure_one * (1 - one)) @ two.T
    return (unlike == 0) & (sure_one @ sure_two.T > 0)
