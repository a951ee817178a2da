"""Search in stages over vectors in memory: many are compared by their first numbers, few by all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import MinLen
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.tasks.retrieve.flat_index import best, unit, unit_prefixes


class Nearest(NamedTuple):
    """What ``nested_search`` gives.

    Attributes:
        rows: (q, k) positions in the base, best first.
        scores: (q, k) cosines at the last width.
    """

    rows: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]


@checked
def nested_search(
    queries: Float[np.ndarray, "q d"],
    *,
    base: Float[np.ndarray, "n d"],
    dims: Annotated[Sequence[Count], MinLen(1)],
    shortlist: Count = 100,
    top: Count = 10,
) -> Nearest:
    """The nearest rows of a base: all by the first ``dims[0]`` numbers, the ``shortlist`` best again by ``dims[1]``...

    Vectors are scaled to length 1 at every width, so those of a model may be given as they are. With a shortlist of
    all rows it is the exact search at the last width. One whose first numbers are all 0 has the cosine 0 there.

    Source: arXiv 2205.13147, section 4.3 (adaptive retrieval).

    Args:
        queries: vectors.
        base: vectors of the same length.
        dims: widths, rising, the last at most d.
        shortlist: rows that go on from one width to the next, at least ``top``.
        top: rows that are given, or all where the base has fewer.

    Example:
        >>> import numpy as np
        >>> from tether.methods.jina_clip_v2.nested_search import nested_search
        >>> base = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
        >>> nested_search(base[3:5], base=base, dims=(16, 64), top=1).rows.tolist()
        [[3], [4]]
    """
    queries, base = np.asarray(queries), np.asarray(base)
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1]:
        raise InputError(f"expected queries (q, d) and base (n, d), got {queries.shape} and {base.shape}")
    if any(left >= right for left, right in itertools.pairwise(dims)) or dims[-1] > base.shape[1]:
        raise InputError(f"dims: expected widths that rise up to at most {base.shape[1]}, got {list(dims)}")
    if shortlist < top:
        raise InputError(f"shortlist: expected at least top, {top}, got {shortlist}")
    kept, scores = np.empty((len(queries), min(top, len(base))), dtype=np.int64), []
    first = unit_prefixes(base, dims=dims[0], where="base")
    for place, query in enumerate(queries):
        rows, found = np.arange(len(base)), first @ _unit(query, dims[0])
        for width in dims[1:]:
            rows = rows[best(found, top=shortlist)]
            found = unit_prefixes(base[rows], dims=width, where="base") @ _unit(query, width)
        order = best(found, top=top)
        kept[place] = rows[order]
        scores.append(found[order])
    return Nearest(kept, np.array(scores, dtype=np.float32).reshape(kept.shape))


def _unit(query: Float[np.ndarray, " d"], width: int) -> Float[np.ndarray, " k"]:
    return unit(query[None, :width], where="query")[0]
