"""What a model finds, and what it takes for what: hits and instructive misses, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.geometry import Geometry
from tether.evaluate.embeddings import Embedded
from tether.evaluate.retrieval import Similarity

ANSWERS = 5
HITS, MISSES = 4, 8


@dataclass(frozen=True, slots=True)
class RetrievedItem:
    """One retrieved image or caption.

    Attributes:
        image: row of the image (for captions: of the image it belongs to).
        caption: its text.
        similarity: cosine with the query.
        right: whether it answers the query.
    """

    image: int
    caption: str
    similarity: float
    right: bool


@dataclass(frozen=True, slots=True)
class Query:
    """One question and its first answers.

    Attributes:
        image: row of the image asked with, or the one the caption belongs to.
        caption: the text asked with, or one that belongs to the image.
        rank: of the right answer; 1 is a hit.
        own_similarity: cosine with the right answer, or what the model compares with.
        answers: the first few, best first.
        near: of a miss, whether it was chosen because the right answer came just behind.
    """

    image: int
    caption: str
    rank: int
    own_similarity: float
    answers: tuple[RetrievedItem, ...]
    near: bool = False


def text_to_image(seen: Embedded, *, ranks: Int[Tensor, " m"]) -> tuple[list[Query], list[Query]]:
    """Captions asked, images found: (hits, misses)."""
    geometry = seen.geometry
    image, text = geometry.points(seen.image), geometry.points(seen.text)
    own = geometry.paired(text, image[seen.text_to_image])
    first = _spoken(seen)
    images = [(row, first[row]) for row in range(len(image))]
    captions = list(zip(seen.text_to_image.tolist(), seen.captions, strict=True))
    return _queries(text, image, ranks=ranks, own=own, asked=captions, answers=images, geometry=geometry)


def image_to_text(seen: Embedded, *, ranks: Int[Tensor, " n"]) -> tuple[list[Query], list[Query]]:
    """Images asked, captions found: (hits, misses)."""
    geometry = seen.geometry
    image, text = geometry.points(seen.image), geometry.points(seen.text)
    pair = geometry.paired(text, image[seen.text_to_image])
    own = torch.full((len(image),), -torch.inf).scatter_reduce(0, seen.text_to_image, pair, "amax")
    first = _spoken(seen)
    images = [(row, first[row]) for row in range(len(image))]
    captions = list(zip(seen.text_to_image.tolist(), seen.captions, strict=True))
    return _queries(image, text, ranks=ranks, own=own, asked=images, answers=captions, geometry=geometry)


def _queries(
    rows: Float[Tensor, "q d"],
    pool: Float[Tensor, "p d"],
    *,
    ranks: Int[Tensor, " q"],
    own: Float[Tensor, " q"],
    asked: Sequence[tuple[int, str]],
    answers: Sequence[tuple[int, str]],
    geometry: Geometry,
) -> tuple[list[Query], list[Query]]:
    """Hits and misses; of what is asked and of each answer the row of its image, and a caption."""
    hits, near, far = _choose(ranks, own, rows, pool, similarity=geometry.similarity)

    def query(at: int, *, near: bool = False) -> Query:
        values, places = geometry.similarity(rows[at][None], pool)[0].topk(min(ANSWERS, len(pool)))
        row, caption = asked[at]
        found = tuple(
            RetrievedItem(image, words, value, image == row)
            for value, (image, words) in zip(values.tolist(), (answers[at] for at in places.tolist()), strict=True)
        )
        return Query(row, caption, int(ranks[at]), float(own[at]), found, near)

    return [query(at) for at in hits], [query(at, near=True) for at in near] + [query(at) for at in far]


def _choose(
    ranks: Int[Tensor, " q"],
    own: Float[Tensor, " q"],
    asked: Float[Tensor, "q d"],
    pool: Float[Tensor, "p d"],
    *,
    similarity: Similarity,
) -> tuple[list[int], list[int], list[int]]:
    """The surest hits, and the misses that teach most: near ones and far ones.

    Half of the misses are near ones (the right answer just behind), half are those where the model was surest of
    something else: the first show what it confuses, the second what it has not learnt.
    """
    best = torch.cat([similarity(rows, pool).amax(dim=1) for rows in asked.split(4096)])
    hits = torch.nonzero(ranks == 1).flatten()
    hits = hits[torch.argsort(own[hits], descending=True, stable=True)]
    missed = torch.nonzero(ranks > 1).flatten()
    missed = missed[torch.argsort((best - own)[missed], descending=True, stable=True)]
    near = missed[torch.argsort(ranks[missed], stable=True)][: MISSES // 2]
    sure = missed[~torch.isin(missed, near)][: MISSES - len(near)]
    return hits[:HITS].tolist(), near.tolist(), sure.tolist()


def _spoken(seen: Embedded) -> list[str]:
    """The first caption of every image, empty where it has none."""
    return [seen.captions[at] if at >= 0 else "" for at in seen.first_captions]
