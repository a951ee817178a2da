"""How well each pair holds together, with equal captions counted as one: ranks, chance, and what beats what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry

CELLS = 1 << 23
"""Most similarities held at once."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Pairs of an image and a distinct caption.

    Attributes:
        texts: the g distinct captions.
        of_caption: (m,) which distinct caption each caption is.
        points: (g, d) the distinct captions as the geometry compares them.
        image: (p,) row of the image of each distinct pair.
        group: (p,) its caption.
        similarity: (p,) of each pair; the cosine where the geometry says nothing else.
        beats_texts: (p,) fraction of the captions that are not the image's which the pair's caption beats.
        beats_images: (p,) fraction of the images without that caption which the pair's image beats.
        image_ranks: (q,) for each image with a caption the rank of its best one among the others'.
        text_ranks: (g,) for each caption the rank of its best image among those without it.
        image_chance: (q,) rank 1 by chance alone, for an image.
        text_chance: (g,) the same for a caption.
        geometry: what is compared with.
    """

    texts: tuple[str, ...]
    of_caption: Int[Tensor, " m"]
    points: Float[Tensor, "g d"]
    image: Int[Tensor, " p"]
    group: Int[Tensor, " p"]
    similarity: Float[Tensor, " p"]
    beats_texts: Float[Tensor, " p"]
    beats_images: Float[Tensor, " p"]
    image_ranks: Int[Tensor, " q"]
    text_ranks: Int[Tensor, " g"]
    image_chance: Float[Tensor, " q"]
    text_chance: Float[Tensor, " g"]
    geometry: Geometry

    @property
    def unit(self) -> Float[Tensor, "g d"]:
        """Unit embeddings of the distinct captions."""
        return self.points if self.geometry.unit else F.normalize(self.points, dim=-1)

    @property
    def told_apart(self) -> Float[Tensor, " p"]:
        """For each pair the mean of both shares it beats: 1 is perfect, 0.5 chance."""
        return (self.beats_texts + self.beats_images) / 2


def pair_up(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "m d"],
    *,
    owner: Int[Tensor, " m"],
    captions: Sequence[str],
    geometry: Geometry = COSINE,
) -> Pairing:
    """Compare every image with every distinct caption, in blocks; both sides as points of the geometry."""
    texts = tuple(dict.fromkeys(captions))
    if len(texts) < 2 or len(image) < 2:
        raise InputError(f"expected at least two images and two different captions, got {len(image)} and {len(texts)}")
    place = {caption: number for number, caption in enumerate(texts)}
    of_caption = torch.tensor([place[caption] for caption in captions])
    first = torch.full((len(texts),), len(captions)).scatter_reduce(0, of_caption, torch.arange(len(captions)), "amin")
    points = text[first]
    pairs = torch.unique(torch.stack([owner, of_caption], dim=1), dim=0)
    rows, groups = pairs[:, 0], pairs[:, 1]
    own = geometry.paired(image[rows], points[groups])
    beats_texts, image_ranks = _against(image, points, rows, groups, geometry=geometry)
    beats_images, text_ranks = _against(points, image, groups, rows, geometry=geometry)
    asked = torch.unique(rows)
    per_image = torch.bincount(rows, minlength=len(image))[asked].double()
    per_text = torch.bincount(groups, minlength=len(texts)).double()
    return Pairing(
        texts=texts,
        of_caption=of_caption,
        points=points,
        image=rows,
        group=groups,
        similarity=own,
        beats_texts=beats_texts,
        beats_images=beats_images,
        image_ranks=image_ranks[asked],
        text_ranks=text_ranks,
        image_chance=per_image / len(texts),
        text_chance=per_text / len(image),
        geometry=geometry,
    )


def beaten(
    pairing: Pairing, image: Float[Tensor, "n d"], *, rows: Int[Tensor, " p"], groups: Int[Tensor, " p"]
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """What other combinations of image and caption would beat: (fraction of captions, fraction of images).

    The image's true captions and the caption's true images stay among what is to be beaten, as they do for a pair
    whose caption was exchanged.
    """
    by_image = torch.empty(len(rows), dtype=torch.float64)
    by_text = torch.empty(len(rows), dtype=torch.float64)
    step = max(1, CELLS // max(len(image), len(pairing.points)))
    alike = pairing.geometry.similarity
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        here, there = image[rows[part]], pairing.points[groups[part]]
        own = pairing.geometry.paired(here, there)[:, None]
        for found, scores in ((by_image, alike(here, pairing.points)), (by_text, alike(there, image))):
            found[part] = (scores < own - _EPS).double().mean(dim=1)
    return by_image, by_text


_EPS = 1e-6  # similarities nearer than this are equal: a product in blocks rounds otherwise than one row by one


def _against(
    asked: Tensor, pool: Tensor, rows: Int[Tensor, " p"], answers: Int[Tensor, " p"], *, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """For each pair the fraction of wrong answers it beats, and for each row the rank of its best answer (0: none)."""
    beats = torch.full((len(rows),), 0.5, dtype=torch.float64)
    ranks = torch.zeros(len(asked), dtype=torch.int64)
    order = torch.argsort(rows, stable=True)
    rows, answers = rows[order], answers[order]
    step = max(1, CELLS // len(pool))
    for start in range(0, len(asked), step):
        scores = geometry.similarity(asked[start : start + step], pool)
        low, high = (int(torch.searchsorted(rows, edge)) for edge in (start, start + len(scores)))
        at, to = rows[low:high] - start, answers[low:high]
        own = scores[at, to]
        wrong = torch.ones_like(scores, dtype=torch.bool)
        wrong[at, to] = False
        kept = torch.where(wrong, scores, torch.nan)
        for some in torch.arange(high - low).split(step):
            table, value = kept[at[some]], own[some][:, None]
            count = wrong[at[some]].sum(dim=1)
            below = (table < value - _EPS).sum(dim=1) + 0.5 * ((table - value).abs() <= _EPS).sum(dim=1)
            share = below.double() / count.clamp_min(1)
            beats[order[low:high][some]] = torch.where(count > 0, share, 0.5)
        best = torch.full((len(scores),), -math.inf, dtype=own.dtype).scatter_reduce(0, at, own, "amax")
        rank = 1 + ((scores >= best[:, None] - _EPS) & wrong).sum(dim=1)
        has = torch.zeros(len(scores), dtype=torch.bool).index_fill(0, at, True)
        ranks[start : start + step] = torch.where(has, rank, 0)
    return beats, ranks


def chance_of(first: Float[Tensor, " q"], *, pool: int, k: int) -> float:
    """Recall at k by chance alone, when each query has ``first`` times ``pool`` right answers in the pool."""
    right = (first * pool).round()
    miss = torch.ones_like(right)
    for taken in range(min(k, pool)):
        miss *= ((pool - right - taken) / (pool - taken)).clamp_min(0)
    return float((1 - miss).mean())
