"""Retrieval: the rank of the right answer among all, both ways, and recall at k from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import MinLen
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.evaluate.checks import checked_pair

BLOCK_CELLS = 1 << 24
"""Most similarities held at once: 64 MiB in float32."""
Similarity = Callable[[Tensor, Tensor], Tensor]
Depths = Annotated[Sequence[Count], MinLen(1)]
"""How many of the first are looked at, one figure for each."""


def dot_products(rows: Float[Tensor, "r d"], others: Float[Tensor, "c d"]) -> Float[Tensor, "r c"]:
    """The similarity of unit rows in CLIP."""
    return rows @ others.T


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of the right answer for every query; 1 is best.

    Attributes:
        image_to_text: (n,) rank of an image's best own caption among all others' captions; 0 for an image without
            a caption, which asks no question but remains a wrong answer for the texts.
        text_to_image: (m,) rank of a caption's own image among all images.
    """

    image_to_text: Int[Tensor, " n"]
    text_to_image: Int[Tensor, " m"]

    @property
    def asked(self) -> Int[Tensor, " q"]:
        """Ranks of the images that have a caption."""
        return self.image_to_text[self.image_to_text > 0]

    @checked
    def summary(self, *, k: Depths = (1, 5, 10)) -> dict[str, float]:
        """Recall at each k as a fraction, mean rank and median rank, both ways."""
        result: dict[str, float] = {}
        for way, ranks in (("image_to_text", self.asked), ("text_to_image", self.text_to_image)):
            for limit in k:
                result[f"{way}_r{limit}"] = (ranks <= limit).double().mean().item()
            result[f"{way}_mean_rank"] = ranks.double().mean().item()
            result[f"{way}_median_rank"] = float(_median(ranks))
        return result


@checked
def recall_at_k(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "m d"],
    *,
    k: Depths = (1, 5, 10),
    text_to_image: Int[Tensor, " m"] | None = None,
    similarity: Similarity = dot_products,
    block_cells: Count = BLOCK_CELLS,
) -> dict[str, float]:
    """Recall at k, mean and median rank, both ways, under the keys ``image_to_text_r1``, ``text_to_image_mean_rank``...

    A recall is the fraction of queries whose right answer is among the k most similar ones. An image with several
    captions is a hit when any of them is; each caption is a query of its own. A tie counts against the query, so a
    collapsed model scores nothing. The median rank is rounded down between two middle ranks, as open_clip reports it.

    Args:
        image: (n, d) embeddings; normalise them for cosine similarity, or give a model's ``geometry.points``.
        text: (m, d) embeddings.
        k: the depths; one beyond the pool counts as a recall of 1.
        text_to_image: (m,) row of the image that each text belongs to; None pairs row i with row i.
        similarity: (r, d) and (c, d) rows to (r, c), the same from either side; a model's is ``geometry.similarity``.
        block_cells: most similarities held at once.
    """
    found = ranks(image, text, text_to_image=text_to_image, similarity=similarity, block_cells=block_cells)
    return found.summary(k=k)


@checked
@torch.no_grad()
def ranks(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "m d"],
    *,
    text_to_image: Int[Tensor, " m"] | None = None,
    similarity: Similarity = dot_products,
    block_cells: Count = BLOCK_CELLS,
) -> Ranks:
    """The rank of every query's right answer: 1 + others with greater similarity + others with equal similarity.

    Ranks are counted, nothing is sorted, and at most ``block_cells`` similarities exist at once. Arguments and errors
    are those of ``recall_at_k``.
    """
    image, text = checked_pair(image, text)
    owner = _owners(text_to_image, images=len(image), texts=len(text)).to(image.device)
    from_image = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    from_text = torch.zeros(len(text), dtype=torch.int64, device=image.device)
    if len(image) * len(text) <= block_cells:
        scores = similarity(image, text)
        _rank_images(scores, owner, first=0, out=from_image)
        _rank_texts(scores.T, owner, out=from_text)
        return Ranks(from_image, from_text)
    rows = max(1, block_cells // len(text))
    for start in range(0, len(image), rows):
        _rank_images(similarity(image[start : start + rows], text), owner, first=start, out=from_image)
    rows = max(1, block_cells // len(image))
    for start in range(0, len(text), rows):
        part = slice(start, start + rows)
        _rank_texts(similarity(text[part], image), owner[part], out=from_text[part])
    return Ranks(from_image, from_text)


def chance(owner: Int[Tensor, " m"], *, images: int, k: Depths = (1, 5, 10)) -> dict[str, float]:
    """What a model that knows nothing reaches: the recall of ranking at random, as keys ``text_to_image_r1_chance``...

    Args:
        owner: (m,) row of the image that each text belongs to.
        images: how many images.
        k: the depths.
    """
    own = torch.bincount(owner, minlength=images).double()
    own, texts = own[own > 0], len(owner)
    found: dict[str, float] = {}
    for depth in k:
        drawn = torch.arange(min(depth, texts), dtype=torch.float64)
        missed = ((texts - own[:, None] - drawn).clamp(min=0) / (texts - drawn)).prod(dim=1)
        found[f"image_to_text_r{depth}_chance"] = (1 - missed).mean().item()
        found[f"text_to_image_r{depth}_chance"] = min(1.0, depth / images)
    return found


def _rank_images(scores: Float[Tensor, "r m"], owner: Int[Tensor, " m"], *, first: int, out: Int[Tensor, " n"]) -> None:
    """Ranks of the images ``first`` to ``first + r`` against every text."""
    count = len(scores)
    own = torch.nonzero((owner >= first) & (owner < first + count)).flatten()
    row = owner[own] - first
    similarity = scores[row, own]
    best = torch.full((count,), -torch.inf, dtype=scores.dtype, device=scores.device)
    best.scatter_reduce_(0, row, similarity, "amax")
    own_hits = torch.zeros(count, dtype=torch.int64, device=scores.device)
    own_hits.scatter_add_(0, row, (similarity >= best[row]).long())
    rank = 1 + _count_true(scores >= best[:, None]) - own_hits
    out[first : first + count] = torch.where(own_hits > 0, rank, 0)


def _rank_texts(scores: Float[Tensor, "r n"], owner: Int[Tensor, " r"], *, out: Int[Tensor, " r"]) -> None:
    """Ranks of r texts against every image; the own image counts itself, which makes the rank start at 1."""
    out.copy_(_count_true(scores >= scores.gather(1, owner[:, None])))


def _count_true(table: Bool[Tensor, "r c"]) -> Int[Tensor, " r"]:
    return table.sum(dim=1, dtype=torch.int32).long()  # torch counts twice as fast in 32 bits


def _owners(text_to_image: Int[Tensor, " m"] | None, *, images: int, texts: int) -> Int[Tensor, " m"]:
    if text_to_image is None:
        if images != texts:
            raise InputError(
                f"{images} images and {texts} texts are not pairs: expected text_to_image to say whose each is"
            )
        return torch.arange(images)
    if text_to_image.shape != (texts,) or text_to_image.is_floating_point():
        raise InputError(
            f"text_to_image: expected ({texts},) integers, got {text_to_image.dtype} {tuple(text_to_image.shape)}"
        )
    if texts and (int(text_to_image.min()) < 0 or int(text_to_image.max()) >= images):
        raise InputError(
            f"text_to_image: expected rows 0 to {images - 1}, got "
            f"{int(text_to_image.min())} to {int(text_to_image.max())}"
        )
    return text_to_image.long()


def _median(values: Int[Tensor, " q"]) -> int:
    ordered = values.sort(stable=True).values
    return int(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2
