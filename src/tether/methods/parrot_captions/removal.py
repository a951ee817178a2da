"""What a score loses when the text in the image is painted over, against boxes of the same sizes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.types import ImageLike
from tether.data.images import decode
from tether.data.inpaint import Fill, boxes_within, fill_boxes, mask_of
from tether.tasks.curate.scorer import ClipScorer


@dataclass(frozen=True, slots=True)
class RemovalEffect:
    """Scores of the pairs whose image has text and room for a control.

    Attributes:
        rows: (m,) which of the given pairs these are.
        whole: (m,) cosine with the image as it is.
        without_text: (m,) with the text painted over.
        without_other: (m,) with boxes of the same sizes painted over elsewhere.
        no_text: how many pairs have no box in their image.
        no_room: how many have no room for a control.
    """

    rows: Int[np.ndarray, " m"]
    whole: Float[np.ndarray, " m"]
    without_text: Float[np.ndarray, " m"]
    without_other: Float[np.ndarray, " m"]
    no_text: int
    no_room: int

    @property
    def text_drop(self) -> float:
        """What the score loses with the text, mean."""
        return float((self.whole - self.without_text).mean())

    @property
    def control_drop(self) -> float:
        """What it loses with the other boxes, mean."""
        return float((self.whole - self.without_other).mean())

    @property
    def effect(self) -> float:
        """What it loses with the text beyond that."""
        return self.text_drop - self.control_drop

    @property
    def falls_more(self) -> float:
        """Fraction of pairs that lose more with the text than with the other boxes."""
        return float((self.without_text < self.without_other).mean())


def text_removal_effect(
    model: DualEncoder,
    *,
    images: Sequence[ImageLike] | UInt8[Tensor, "n 3 h w"],
    boxes: Sequence[Int[np.ndarray, "k 4"]],
    texts: Sequence[str],
    seed: int = 0,
    fill: Fill = "smooth",
) -> RemovalEffect:
    """Score each pair three times: as it is, without its text, and without something else of the same size.

    Source: arXiv 2312.14232, section 4; the control, and how boxes are painted over, are ours.

    Args:
        model: any model that ``tether.load`` gives.
        images: n images.
        boxes: where text stands in each: (k, 4) x0, y0, x1, y1 in pixels, cut to the image; none where k is 0.
        texts: one caption each.
        seed: of the control's places, which depend on it and the image's position only.
        fill: as ``data.inpaint.fill_boxes``.
    """
    if not len(images) == len(boxes) == len(texts):
        raise InputError(
            f"expected as many boxes and texts as images, got {len(images)}, {len(boxes)} and {len(texts)}"
        )
    rows: list[int] = []
    versions: list[list[Tensor]] = [[], [], []]
    no_text = no_room = 0
    for row, (image, given) in enumerate(zip(images, boxes, strict=True)):
        pixels = image if isinstance(image, Tensor) else decode(image, name=f"image {row}")
        height, width = pixels.shape[-2:]
        inside = boxes_within(given, height=height, width=width)
        if not len(inside):
            no_text += 1
            continue
        other = control_boxes(inside, height=height, width=width, rng=np.random.default_rng([seed, row]))
        if other is None:
            no_room += 1
            continue
        rows.append(row)
        for held, version in zip(
            versions, (pixels, fill_boxes(pixels, inside, fill=fill), fill_boxes(pixels, other, fill=fill)), strict=True
        ):
            held.append(version)
    if not rows:
        raise InputError(
            f"none of {len(texts)} pairs has text and room for a control: {no_text} without, {no_room} full"
        )
    scorer = ClipScorer(model)  # an image that painting did not change keeps its score to the last digit
    told = [texts[row] for row in rows]
    whole, without, other = (scorer(held, told) for held in versions)
    return RemovalEffect(np.array(rows), whole, without, other, no_text, no_room)


def control_boxes(
    boxes: Int[np.ndarray, "k 4"], *, height: int, width: int, rng: np.random.Generator
) -> Int[np.ndarray, "k 4"] | None:
    """A box of each size at a random place off all boxes given, and off each other where there is room.

    Args:
        boxes: inside the image, as ``boxes_within`` gives them.
        height: of the image.
        width: of the image.
        rng: of the places.

    Returns:
        None when a box fits nowhere.
    """
    text = mask_of(boxes, height=height, width=width)
    taken = text.copy()
    placed = np.zeros((len(boxes), 4), np.int64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    for index in np.argsort(-sizes.prod(axis=1), kind="stable"):  # the largest first, while there is room
        wide, high = sizes[index].tolist()
        free = _places(taken, high, wide)
        if not len(free):
            free = _places(text, high, wide)
        if not len(free):
            return None
        top, left = free[rng.integers(len(free))].tolist()
        placed[index] = left, top, left + wide, top + high
        taken[top : top + high, left : left + wide] = True
    return placed


def _places(taken: np.ndarray, high: int, wide: int) -> Int[np.ndarray, "m 2"]:
    """Top left corners at which a box lies on nothing taken."""
    total = np.zeros((taken.shape[0] + 1, taken.shape[1] + 1), np.int64)
    total[1:, 1:] = taken.cumsum(axis=0).cumsum(axis=1)
    covered = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    return np.argwhere(covered == 0)
