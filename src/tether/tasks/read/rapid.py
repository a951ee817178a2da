"""RapidOCR as a reader of crops and of whole pages, for what it knows already: Latin and Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Share, checked
from tether.core.types import ImageLike
from tether.core.words_read import Texts
from tether.data.images import decode
from tether.tasks.curate.text_reader import RapidReader, Side, bgr, rapid_engine

PAGE_SIDE = 736
"""Pixels that the shorter side has at least when lines are looked for, RapidOCR's own."""
PAGE_SCORE = 0.5
"""Confidence below which a line is left out, RapidOCR's own."""

Images = Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"]


class RapidWords:
    """PP-OCR's recogniser by RapidOCR on one thread: a line of text a crop. Weights come with its package.

    It knows no folder and learns nothing; ``READERS`` has it beside those that ``tether adapt`` makes.

    Example:
        >>> from tether.tasks.read import RapidWords
        >>> RapidWords().unit
        'word'
    """

    file: ClassVar[str | None] = None
    unit: ClassVar[str] = "word"
    scenes: ClassVar[bool] = False

    @checked
    def read(self, images: Images, *, batch_size: Count = 64) -> Texts:
        """The lines that stand in crops.

        Args:
            images: of a word or line each.
            batch_size: crops that are decoded at once.

        Raises:
            InputError: one that cannot be read, by its number.
            MissingExtraError: RapidOCR is not installed.
        """
        engine = rapid_engine()
        words, sure = [], []
        for one in _pixels(images, batch_size=batch_size, what="crop"):
            said = engine(bgr(one), use_det=False, use_cls=False, use_rec=True)
            words.append("".join(said.txts or ()))
            sure.append(float(np.mean(said.scores)) if said.scores else 0.0)
        return Texts(tuple(words), np.clip(np.array(sure), 0.0, 1.0))


class RapidPages:
    """PP-OCR's detector and recogniser by RapidOCR on one thread: all lines of a page or a photo, from the top down.

    Lines that stand beside each other are joined by a blank, so columns of a page are not told apart.

    Args:
        side: pixels to which a smaller shorter side is brought; larger finds smaller letters and takes longer.
        least_score: confidence below which a line is left out.

    Example:
        >>> from tether.tasks.read import RapidPages
        >>> RapidPages().unit
        'page'
    """

    file: ClassVar[str | None] = None
    unit: ClassVar[str] = "page"
    scenes: ClassVar[bool] = False

    @checked
    def __init__(self, *, side: Side = PAGE_SIDE, least_score: Share = PAGE_SCORE) -> None:
        """Take the settings; weights are loaded at the first image."""
        self._reader = RapidReader(side=side, least_score=least_score, least_letters=1)

    @checked
    def read(self, images: Images, *, batch_size: Count = 64) -> Texts:
        """The text of whole images, with line feeds between lines; confidence is the mean over its characters.

        Args:
            images: any.
            batch_size: images that are decoded at once.

        Raises:
            InputError: one that cannot be read, by its number.
            MissingExtraError: RapidOCR is not installed.
        """
        texts, sure = [], []
        for one in _pixels(images, batch_size=batch_size, what="page"):
            found = self._reader(one)
            rows = reading_order(found.boxes)
            texts.append("\n".join(" ".join(found.lines[at] for at in row) for row in rows))
            letters = [len(line) for line in found.lines]
            sure.append(float(np.average(found.scores, weights=letters)) if letters else 0.0)
        return Texts(tuple(texts), np.clip(np.array(sure), 0.0, 1.0))


@checked
def find_lines(image: UInt8[Tensor, "3 h w"], *, side: Side = PAGE_SIDE) -> Int[np.ndarray, "n 4"]:
    """Boxes of the lines of an image by RapidOCR's detector, in the order in which they are read.

    Args:
        image: pixels.
        side: see ``RapidPages``.

    Returns:
        x0, y0, x1, y1 in pixels, the last two exclusive; lines that are not level have the box around them.

    Raises:
        MissingExtraError: RapidOCR is not installed.
    """
    found = rapid_engine(side)(bgr(image), use_det=True, use_cls=False, use_rec=False)
    if found.boxes is None or not len(found.boxes):
        return np.zeros((0, 4), np.int64)
    corners = np.asarray(found.boxes)
    boxes = np.concatenate([np.floor(corners.min(axis=1)), np.ceil(corners.max(axis=1))], axis=1).astype(np.int64)
    height, width = image.shape[1:]
    boxes = np.clip(boxes, 0, [width, height, width, height])
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    return boxes[[at for row in reading_order(boxes) for at in row]]


def reading_order(boxes: Int[np.ndarray, "n 4"]) -> list[list[int]]:
    """Numbers of boxes by rows, from the top down and in each row from left to right.

    A box is in the row of another if the middle of one of both is not above or below the other.

    Example:
        >>> import numpy as np
        >>> from tether.tasks.read.rapid import reading_order
        >>> reading_order(np.array([[50, 1, 90, 11], [0, 20, 90, 30], [0, 0, 40, 10]]))
        [[2, 0], [1]]
    """
    middles = (boxes[:, 1] + boxes[:, 3]) / 2
    rows: list[list[int]] = []
    for at in np.argsort(middles, kind="stable").tolist():
        first = rows[-1][0] if rows else at
        beside = boxes[first, 1] < middles[at] < boxes[first, 3] or boxes[at, 1] < middles[first] < boxes[at, 3]
        if rows and beside:
            rows[-1].append(at)
        else:
            rows.append([at])
    return [sorted(row, key=lambda at: (boxes[at, 0], at)) for row in rows]


def _pixels(images: Images, *, batch_size: int, what: str) -> Iterator[Tensor]:
    """Each image's pixels, some decoded at once so that a broken one is told before much is read."""
    if not len(images):
        raise InputError(f"images: expected at least one {what}")
    for start in range(0, len(images), batch_size):
        some = enumerate(images[start : start + batch_size], start)
        yield from [one if isinstance(one, Tensor) else decode(one, name=f"{what} {row}") for row, one in some]
