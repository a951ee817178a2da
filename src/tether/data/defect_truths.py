"""What is known of images with defects: whether an image has one, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool

from tether.core.errors import InputError
from tether.core.types import ImageLike, Row
from tether.data.anomaly_files import DefectMasks
from tether.data.images import decode
from tether.data.labelled import label_of

NORMAL_LABELS = ("good", "normal")
"""Labels of images without a defect."""


@dataclass(frozen=True, slots=True, eq=False)
class DefectTruth:
    """What is known of one image.

    Attributes:
        defective: whether it has a defect.
        mask: (h, w) True where it is, of any size; None for a defective image of which that is not known.
    """

    defective: bool
    mask: Bool[np.ndarray, "h w"] | None


class DefectTruths:
    """Masks from a folder or a column, and labels of images that have no mask.

    An image with a mask is defective where that is not black, and normal where all of it is. One without is normal if
    its label is one of ``normal``, so that its mask is black, and defective, no one knows where, if it is another. Of
    one with neither nothing is known.

    Example:
        >>> import numpy as np
        >>> from tether.core.types import Row
        >>> from tether.data.defect_truths import DefectTruths
        >>> mask = np.zeros((4, 4), dtype=np.uint8)
        >>> mask[0] = 255
        >>> truths = DefectTruths()
        >>> truths.read(Row("0", None, meta={"mask": mask})).mask.sum()
        4
        >>> truths.read(Row("1", None, meta={"label": "crack"}))
        DefectTruth(defective=True, mask=None)
        >>> truths.read(Row("2", None)) is None
        True
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        column: str = "mask",
        label: str = "label",
        normal: Sequence[str] = NORMAL_LABELS,
    ) -> None:
        """Choose where to look.

        Args:
            folder: with ``KEY.png`` for images, as ``tether detect --masks`` takes it; None takes ``column``.
            column: of the data, with a mask each: an image file's bytes, its path, or an array.
            label: column of the word for an image; of a folder of images it is the folder inside.
            normal: words for images without a defect.

        Raises:
            InputError: no such folder, or no PNG in it.
        """
        self._masks = None if folder is None else DefectMasks(folder)
        self._column, self._label, self._normal = column, label, tuple(normal)

    def read(self, row: Row) -> DefectTruth | None:
        """What is known of an image; None where nothing is.

        Raises:
            InputError: a mask that cannot be read, or one that is not black for an image whose label is normal; it
                names the row.
        """
        mask = self._of_column(row) if self._masks is None else self._masks.read(row.key, size=None)
        word = label_of(row, self._label)
        if mask is None:
            if word is None:
                return None
            normal = word in self._normal
            return DefectTruth(not normal, np.zeros((1, 1), dtype=np.bool_) if normal else None)
        if word in self._normal and mask.any():
            raise InputError(f"{row.key}: its mask shows a defect, but its {self._label} is {word!r}")
        return DefectTruth(bool(mask.any()), mask)

    def _of_column(self, row: Row) -> Bool[np.ndarray, "h w"] | None:
        value = row.meta.get(self._column)
        if value is None or (isinstance(value, (bytes, str)) and not value):
            return None
        if isinstance(value, np.ndarray):
            if value.ndim not in (2, 3) or not value.size:
                raise InputError(f"{row.key}: {self._column}: expected a mask (h, w), got {value.shape}")
            return value != 0 if value.ndim == 2 else (value != 0).any(axis=2)
        try:
            pixels = decode(cast(ImageLike, value), name=f"{row.key}: {self._column}")
        except InputError as error:
            if isinstance(value, str):  # such as a word: the name of a folder, or a label
                raise InputError(f"{error}; column= names a column of masks, label= one of words") from error
            raise
        return (pixels != 0).any(dim=0).numpy()


def mask_at(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "r c"]:
    """A mask at another height and width, each pixel that of the nearest."""
    rows, columns = (
        np.minimum((np.arange(new) * (old / new)).astype(int), old - 1)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
