"""Titles joined with images of other articles: training pairs for a detector without a label (arXiv 2204.05533)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Positive, checked
from tether.space.validation import checked_unit_rows

Strategy = Literal["random", "band", "same_group"]
BAND = (0.02, 0.15)
DUPLICATE = 0.95
_CHUNK = 512  # titles whose similarities with all images are held at once
_SAME = 1e-9  # of a cosine: rows this near to each other are equal


@dataclass(frozen=True, slots=True)
class MismatchedPairs:
    """Pairs to train on, in random order; entry i of each belongs to pair i.

    Attributes:
        text: (m,) row of the title.
        image: (m,) row of the image.
        label: (m,) 1 where they do not belong together.
        without: (k,) titles for which no image of another article would do, ascending.
    """

    text: Int[np.ndarray, " m"]
    image: Int[np.ndarray, " m"]
    label: Int[np.ndarray, " m"]
    without: Int[np.ndarray, " k"]


@checked
def make_mismatched_pairs(
    images: Float[np.ndarray, "n d"],
    *,
    texts: Float[np.ndarray, "n d"],
    groups: Sequence[Hashable] | None = None,
    events: Sequence[Hashable] | None = None,
    strategy: Strategy = "random",
    ratio: Positive = 1.0,
    band: tuple[NonNegative, Positive] = BAND,
    duplicate: Annotated[float, Gt(0), Le(1)] = DUPLICATE,
    seed: int = 0,
) -> MismatchedPairs:
    """Every pair as it is, and titles joined with images of other articles.

    No image is taken that is the title's own, or as near to it as ``duplicate`` (agency images come again and
    again), or whose own title has the same embedding, for such a pair is representative. The classes differ in nothing
    else: each title comes in both, and images are drawn from the same pool. Split by image and by outlet before
    you come here, or the detector learns who writes instead of what fits.

    Source: arXiv 2204.05533, section 4; the paper's exact scheme is not published.

    Args:
        images: (n, d) embeddings of the images, of any length above zero.
        texts: (n, d) embeddings of their titles.
        groups: outlet or category of each pair; needed by ``same_group``.
        events: what each article tells of; images of one event represent each other, so they are not swapped.
        strategy: ``random`` takes any other image; ``band`` one whose similarity to the title is below that of the
            own image by an amount within ``band``; ``same_group`` any of the same group, which takes the shortcut
            away that a group's look offers.
        ratio: mismatched pairs for each title; 2.5 gives every title two and every other one a third.
        band: least and largest amount.
        duplicate: largest cosine that two images may have; 1 excludes exact copies only.
        seed: of the draws and the order.

    Raises:
        InputError: no title at all has another image that would do.
    """
    image, title = paired_units(images, texts=texts)
    if not band[0] < band[1]:
        raise InputError(f"band: expected least < largest, got {band}")
    if (groups is None and strategy == "same_group") or (groups is not None and len(groups) != len(title)):
        got = "none" if groups is None else f"{len(groups)}"
        raise InputError(f"groups: expected one for each of {len(title)} pairs, got {got}")
    rng = np.random.default_rng(seed)
    codes = _coded(groups) if groups is not None and strategy == "same_group" else None
    told = None if events is None else _coded(events)
    if told is not None and len(told) != len(title):
        raise InputError(f"events: expected one for each of {len(title)} pairs, got {len(told)}")
    # Which titles get one more than the whole part of the ratio is chance, the same number for every seed.
    wanted = np.full(len(title), int(ratio))
    wanted[rng.permutation(len(title))[: round((ratio - int(ratio)) * len(title))]] += 1
    chosen, owner, without = [], [], []
    for start in range(0, len(title), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(title)))
        allowed = _allowed(
            image, title, rows, codes=codes, told=told, band=band if strategy == "band" else None, duplicate=duplicate
        )
        for row, mask in zip(rows.tolist(), allowed, strict=True):
            candidates = np.flatnonzero(mask)
            if not len(candidates):
                without.append(row)
                continue
            taken = rng.choice(candidates, size=wanted[row], replace=wanted[row] > len(candidates))
            chosen.extend(taken.tolist())
            owner.extend([row] * len(taken))
    if len(without) == len(title):
        raise InputError(
            f"strategy {strategy!r}: none of {len(title)} titles has another image that would do; widen the band, "
            "raise duplicate, or give larger groups"
        )
    text = np.concatenate([np.arange(len(title)), np.array(owner, np.int64)])
    image = np.concatenate([np.arange(len(title)), np.array(chosen, np.int64)])
    label = np.repeat([0, 1], [len(title), len(owner)])
    order = rng.permutation(len(label))
    return MismatchedPairs(text[order], image[order], label[order], np.array(without, np.int64))


def _coded(names: Sequence[Hashable]) -> np.ndarray:
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names])


def _allowed(
    image: np.ndarray,
    title: np.ndarray,
    rows: np.ndarray,
    *,
    codes: np.ndarray | None,
    told: np.ndarray | None,
    band: tuple[float, float] | None,
    duplicate: float,
) -> np.ndarray:
    """(len(rows), n) True where the image may stand with the title."""
    near = image[rows] @ image.T
    allowed = (near <= duplicate) & (near < 1 - _SAME) & (title[rows] @ title.T < 1 - _SAME)
    allowed[np.arange(len(rows)), rows] = False
    if codes is not None:
        allowed &= codes[rows][:, None] == codes[None]
    if told is not None:
        allowed &= told[rows][:, None] != told[None]
    if band is not None:
        similarity = title[rows] @ image.T
        below = similarity[np.arange(len(rows)), rows][:, None] - similarity
        allowed &= (below >= band[0]) & (below <= band[1])
    return allowed


def paired_units(
    images: Float[np.ndarray, "n d"], *, texts: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]:
    """Both sides of n pairs with rows of length 1."""
    image, title = checked_unit_rows(images, name="images"), checked_unit_rows(texts, name="texts")
    if image.shape != title.shape:
        raise InputError(f"expected as many images as texts, of one width, got {image.shape} and {title.shape}")
    return image, title
