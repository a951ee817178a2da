"""Hard negatives: texts near to a query that do not answer it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Whole, checked
from tether.tasks.retrieve.flat_index import best, unit

_BLOCK = 1024
"""Queries compared at once."""

Encode = Callable[[Sequence[str]], np.ndarray]
"""n texts to (n, d) rows of any length."""


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """What ``mine_hard_negatives`` found.

    Attributes:
        places: (q, k) places of the documents, the nearest first.
        scores: (q, k) their cosines.
        own: (q,) cosine of the query's nearest own document; NaN where it has none.
        mean: (q,) mean cosine of all documents.
    """

    places: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]
    own: Float[np.ndarray, " q"]
    mean: Float[np.ndarray, " q"]


@checked
def mine_hard_negatives(
    encode: Encode,
    queries: Sequence[str],
    docs: Sequence[str],
    *,
    k: Count,
    skip_top: Whole = 1,
    margin: NonNegative | None = None,
    own: Sequence[Collection[int]] | None = None,
) -> HardNegatives:
    """The k documents nearest to each query, without its own and without the very nearest of the others.

    A document that has the text of the query or of one of its own documents is never a negative.

    Args:
        encode: gives a row for each text, such as ``partial(encode_texts, model)``.
        queries: q texts.
        docs: what is searched; equal ones count once.
        k: hard negatives of each query.
        skip_top: so many of the first are left out, for they often answer the query, too. Its own documents and its own
            text do not count; where ``own`` is not given, the answer is taken to be among the first.
        margin: a negative's cosine is at least this much below that of the query's best own document, or of the nearest
            where it has none; None sets no bound. A document with the query's own text is not looked at.
        own: places of the documents that answer each query.

    Raises:
        InputError: an empty text, places that are none, or fewer than k documents left for a query, which it names.

    Example:
        >>> import numpy as np
        >>> from tether.tasks.retrieve.mine import mine_hard_negatives
        >>> docs = ["a dog", "a dog on sand", "a cat", "a car"]
        >>> rows = dict(zip(["dog", *docs], np.array([[1, 0], [1, 0.1], [1, 0.3], [1, 0.9], [0.1, 1]]), strict=True))
        >>> mine_hard_negatives(lambda texts: np.stack([rows[t] for t in texts]), ["dog"], docs, k=1, own=[[1]]).places
        array([[2]])
    """
    for what, texts in (("query", queries), ("document", docs)):
        for place, text in enumerate(texts):
            if not text.strip():
                raise InputError(f"{what} {place}: expected a text, got an empty one")
    if own is not None and len(own) != len(queries):
        raise InputError(f"own: expected places for each of {len(queries)} queries, got {len(own)}")
    places: dict[str, int] = {}
    for place, text in enumerate(docs):
        places.setdefault(text, place)
    if not queries or not docs:
        raise InputError(f"expected queries and documents, got {len(queries)} and {len(docs)}")
    kept = np.array(list(places.values()))
    if k > len(kept):
        raise InputError(f"expected at most as many negatives as different documents, {len(kept)}, got {k}")
    number = {place: row for row, place in enumerate(places.values())}
    rows = unit(np.asarray(encode([docs[place] for place in kept])), where="documents")
    asked = unit(np.asarray(encode(list(queries))), where="queries")
    found = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    nearest, mean = np.full(len(queries), np.nan, dtype=np.float32), np.empty(len(queries), dtype=np.float32)
    for start in range(0, len(queries), _BLOCK):
        for query, scores in enumerate(asked[start : start + _BLOCK] @ rows.T, start=start):
            answers = _answers(own[query], docs, where=f"own: query {query}") if own is not None else []
            mine = [number[places[docs[place]]] for place in answers if docs[place] != queries[query]]
            left = scores.copy()
            if queries[query] in places:
                left[number[places[queries[query]]]] = -np.inf
            limit = (left[mine] if mine else left).max()
            nearest[query], mean[query] = limit if mine else np.nan, scores.mean()
            left[mine] = -np.inf
            if skip_top:
                left[best(left, top=skip_top)] = -np.inf
            if margin is not None:
                left[left > limit - margin] = -np.inf
            chosen = best(left, top=k)
            if len(chosen) < k:
                raise InputError(
                    f"query {query} ({queries[query]!r:.80}): expected {k} hard negatives, only {len(chosen)} of "
                    f"{len(kept)} documents are left; take more documents, fewer negatives, or a smaller skip_top or "
                    "margin"
                )
            found[query], cosines[query] = kept[chosen], scores[chosen]
    return HardNegatives(found, cosines, nearest, mean)


def _answers(places: Collection[int], docs: Sequence[str], *, where: str) -> list[int]:
    wrong = [place for place in places if not 0 <= place < len(docs)]
    if wrong:
        raise InputError(f"{where}: expected places of 0 to {len(docs) - 1}, got {wrong[0]}")
    return list(places)
