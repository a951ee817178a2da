"""Images that are there twice or nearly so, and captions that are."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Finding, Gallery, Item
from tether.core.ranges import Inner, Positive, checked
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import exact

NEAR = 0.95
"""Cosine from which two images are compared pixel by pixel."""
SAME, ALIKE = 1.0, 6.0
"""Mean difference of two small images in grey levels up to which they are the same, or nearly so."""
MUCH = 0.02
"""Fraction of rows in groups of equal images that is worth a remark."""
_MOST_COMPARED = 4000
_BLOCK = 1024
_SHOWN = 4


@checked
@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Finds equal images by a hash of their pixels, then pairs of others with nearly one embedding.

    Of these pairs the pixels are compared as well, so the model alone never decides.

    Args:
        near: cosine from which two images are compared.
        alike: mean difference in grey levels (0 to 255) up to which they count as near-duplicates.
    """

    title = "Duplicates and near-duplicates"
    near: Inner = NEAR
    alike: Positive = ALIKE

    def __call__(self, subject: Subject) -> Finding:
        """A remark when many rows are there twice."""
        if len(subject.image) < 2:
            raise InputError(f"expected at least two images, got {len(subject.image)}")
        copies = _copies(subject.thumbnails, count=len(subject.image))
        times = torch.tensor([len(rows) for rows in copies])
        first = torch.tensor([rows[0] for rows in copies])
        near, cut = _near(subject.image[first], least=self.near)
        difference = _difference(subject.thumbnails, first[near])
        found = [near[difference <= limit] for limit in (SAME, self.alike)]
        twins = int((times * (times - 1) // 2).sum())
        same, alike = (twins + int(times[pairs].prod(dim=1).sum()) for pairs in found)
        groups = [sorted(row for at in group for row in copies[at]) for group in _groups(len(copies), found[1])]
        groups = [group for group in groups if len(group) > 1]
        twice = sum(len(group) for group in groups)
        spare = twice - len(groups)
        captions = Counter(subject.seen.captions)
        repeated = sum(count for count in captions.values() if count > 1)
        least = " (at least)" if cut else ""
        figures = (
            exact(f"pairs of equal images{least}", same, unit="count"),
            exact(f"pairs of nearly equal images{least}", alike, unit="count"),
            exact(f"images in groups of nearly equal ones{least}", twice, unit="count"),
            exact(f"of these, to spare{least}", spare, unit="count"),
            exact("different captions", len(captions), unit="count"),
            exact("captions that are there more than once", repeated, unit="count"),
        )
        level = "note" if twice > MUCH * len(subject.image) and twice > 1 else "good"
        said = (
            f"{'At least ' if cut else ''}{twice} of {len(subject.image):,} images have a near-duplicate here "
            f"({spare} could go)"
            if twice
            else f"No image is there twice{' among the nearest pairs' if cut else ''}"
        )
        used = f"; {repeated} of {len(subject.seen.captions):,} captions are used more than once" if repeated else ""
        galleries = [
            Gallery(
                f"Group of {len(group)}",
                tuple(Item(row, subject.name_of(row), subject.seen.keys[row]) for row in group[:6]),
            )
            for group in sorted(groups, key=len, reverse=True)[:_SHOWN]
        ]
        common = [Bar(text, count) for text, count in captions.most_common(6) if count > 1]
        drawings: list[Bars | Gallery] = [*galleries]
        if common:
            drawings.append(Bars("Captions used most", tuple(common), "count"))
        limits = " Only equal images and the nearest pairs of others were compared; there may be more." if cut else ""
        return Finding(
            f"{said}{used}.",
            level,
            figures,
            tuple(drawings),
            f"Images are compared at {subject.thumbnails([0]).shape[-1]} pixels, so a tiny difference stays unseen. "
            "Equal captions are natural where words are few, but each is a false negative in a contrastive batch."
            f"{limits}",
            "tether curate --help; the losses take ids of equal captions (docs/guides/objectives.md)",
        )


def alike_groups(
    image: Float[Tensor, "n d"],
    thumbnails: Callable[[Sequence[int]], Tensor],
    *,
    near: float = NEAR,
    alike: float = ALIKE,
) -> Int[np.ndarray, " n"]:
    """The number of each row's group of images that are equal or nearly so, as ``Duplicates`` finds them.

    Args:
        image: unit rows.
        thumbnails: small images by row.
        near: cosine from which two images are compared.
        alike: mean difference in grey levels up to which they belong together.
    """
    copies = _copies(thumbnails, count=len(image))
    first = torch.tensor([rows[0] for rows in copies])
    pairs, _ = _near(image[first], least=near)
    groups = _groups(len(copies), pairs[_difference(thumbnails, first[pairs]) <= alike])
    names = np.empty(len(image), np.int64)
    for name, group in enumerate(groups):
        for at in group:
            names[copies[at]] = name
    return names


def _copies(thumbnails: Callable[[Sequence[int]], Tensor], *, count: int) -> list[list[int]]:
    """Rows by small image, those with equal ones together, in the order of their first."""
    found: dict[bytes, list[int]] = {}
    for rows in torch.arange(count).split(_BLOCK):
        for row, image in zip(rows.tolist(), thumbnails(rows.tolist()), strict=True):
            found.setdefault(hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest(), []).append(row)
    return list(found.values())


def _near(image: Tensor, *, least: float) -> tuple[Tensor, bool]:
    """(p, 2) rows with a cosine of at least ``least``, nearest first, and whether some were left out."""
    pairs, values = [], []
    cut = False
    for start in range(0, len(image), _BLOCK):
        scores = image[start : start + _BLOCK] @ image[start:].T
        later = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
        found = torch.nonzero((scores >= least) & later)
        value = scores[found[:, 0], found[:, 1]]
        if len(value) > _MOST_COMPARED:
            cut = True
            value, order = value.topk(_MOST_COMPARED)
            found = found[order]
        pairs.append(found + start)
        values.append(value)
    every, value = torch.cat(pairs), torch.cat(values)
    order = torch.argsort(value, descending=True, stable=True)
    return every[order[:_MOST_COMPARED]], cut or len(order) > _MOST_COMPARED


def _difference(thumbnails: Callable[[Sequence[int]], Tensor], pairs: Tensor) -> Tensor:
    """Mean difference in grey levels of the small images of each pair."""
    if not len(pairs):
        return torch.empty(0)
    rows = torch.unique(pairs)
    small = thumbnails(rows.tolist())
    place = torch.searchsorted(rows, pairs)
    parts = [
        (small[left].short() - small[right].short()).abs().float().flatten(1).mean(dim=1)
        for left, right in zip(place[:, 0].split(_BLOCK), place[:, 1].split(_BLOCK), strict=True)
    ]
    return torch.cat(parts)


def _groups(count: int, pairs: Tensor) -> list[list[int]]:
    """All ``count`` places in groups that hang together through pairs; many are alone."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left, right = pairs.T.numpy()
    _, names = connected_components(
        coo_matrix((np.ones(len(pairs), dtype=bool), (left, right)), shape=(count, count)), directed=False
    )
    groups: dict[int, list[int]] = {}
    for place, name in enumerate(names.tolist()):
        groups.setdefault(name, []).append(place)
    return list(groups.values())
