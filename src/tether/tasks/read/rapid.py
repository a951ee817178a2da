"""RapidOCR's recogniser as a reader of crops, for what it knows already: printed and written Latin and Chinese."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.ranges import Count, checked
from tether.core.types import ImageLike
from tether.core.words_read import Texts
from tether.data.images import decode
from tether.tasks.curate.text_reader import rapid_engine


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

    @checked
    def read(self, images: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"], *, batch_size: Count = 64) -> Texts:
        """The lines that stand in crops.

        Args:
            images: of a word or line each.
            batch_size: crops that are decoded at once.

        Raises:
            InputError: one that cannot be read, by its number.
            MissingExtraError: RapidOCR is not installed.
        """
        engine = rapid_engine()
        found = []
        for start in range(0, len(images), batch_size):
            some = list(enumerate(images[start : start + batch_size], start))
            pixels = [one if isinstance(one, Tensor) else decode(one, name=f"crop {row}") for row, one in some]
            words, sure = [], []
            for one in pixels:
                # It expects BGR.
                said = engine(
                    one.flip(0).permute(1, 2, 0).contiguous().numpy(), use_det=False, use_cls=False, use_rec=True
                )
                words.append("".join(said.txts or ()))
                sure.append(float(np.mean(said.scores)) if said.scores else 0.0)
            found.append(Texts(tuple(words), np.clip(np.array(sure), 0.0, 1.0)))
        return Texts.joined(found)
