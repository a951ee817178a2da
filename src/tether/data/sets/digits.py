"""Scikit-learn's handwritten digits with captions: 1,797 grey images of 8 x 8, drawn larger.

The smallest real data set there is, for checks that must be quick. Source: UCI "Optical Recognition of Handwritten
Digits" (CC BY 4.0), test part, as ``sklearn.datasets.load_digits`` carries it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from tether.core.hash_rng import hash_uniform
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.sets.prepare import prepared

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("the digit {name}", "a handwritten {name}", "the number {digit}")

_TEST, _VALIDATION = 0.2, 0.1


class DigitsSet(IndexedSource):
    """Handwritten digits, dark ink on white, with their names.

    Args:
        split: ``train`` (about 70 %), ``validation`` (10 %), ``test`` (20 %) or ``all``, by a hash of the row.
        size: height and width in pixels, 8 to 512; drawn larger bicubically.
        captions: ``one``, "the digit seven"; ``several`` adds two more ways to say it.

    Attributes:
        pixels: (n, size, size, 3) uint8.
        labels: (n,) int64, 0 to 9.
        captions: texts of each image.
    """

    name = "digits"

    @checked
    def __init__(
        self,
        *,
        split: Literal["train", "validation", "test", "all"] = "train",
        size: Annotated[int, Ge(8), Le(512)] = 32,
        captions: Literal["one", "several"] = "one",
    ) -> None:
        """Read the digits; scikit-learn is imported only the first time, to fill the cache."""
        self.split, self.size, self.version = split, size, f"1-sklearn{version('scikit-learn')}"
        folder = prepared("digits", key=self.version, build=_build)
        images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
        draws = hash_uniform(map(str, range(len(labels))), salt="digits")
        held = np.where(draws < _TEST, "test", np.where(draws < _TEST + _VALIDATION, "validation", "train"))
        self._rows = np.flatnonzero((held == split) | (split == "all"))
        self.labels: np.ndarray = labels[self._rows]
        self.pixels: np.ndarray = _enlarge(images[self._rows], size)
        templates = TEMPLATES if captions == "several" else TEMPLATES[:1]
        self.captions = [
            tuple(template.format(name=NAMES[digit], digit=digit) for template in templates) for digit in self.labels
        ]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def row(self, index: int) -> Row:
        """One image; its key is the row in scikit-learn's order."""
        digit = int(self.labels[index])
        meta = {"label": digit, "name": NAMES[digit]}
        return Row(f"{self._rows[index]:04d}", self.pixels[index], self.captions[index], meta)


def _build(folder: Path) -> None:
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    np.save(folder / "images.npy", np.asarray(flat, dtype=np.float32).reshape(-1, 8, 8))
    np.save(folder / "labels.npy", np.asarray(labels, dtype=np.int64))


def _enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """(n, 8, 8) ink from 0 to 16 to (n, size, size, 3) uint8, 255 where there is none."""
    from PIL import Image

    out = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        large = Image.fromarray(255 - image * (255 / 16)).resize((size, size), Image.Resampling.BICUBIC)
        out[index] = np.asarray(large).clip(0, 255).round().astype(np.uint8)[:, :, None]
    return out
