"""Images of woven cloth, normal or with a local or a global defect: 2,000 JPEG files for inspection by words.

Simulated textiles of Megahed et al. (arXiv 2501.12596), 250 x 250, grey: 1,000 normal, 500 with one small local flaw,
500 whose weave has changed everywhere. They come with the library ``conformal-clip-data`` (MIT, 120 MB), the extra
``textile``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from tether.core.errors import InputError, MissingExtraError
from tether.core.hash_rng import hash_uniform
from tether.core.types import Block, Row
from tether.data.sets import settings

CAPTIONS: dict[str, tuple[str, ...]] = {
    "normal": ("a photo of a normal textile without defects", "an even weave with nothing wrong"),
    "local": ("a photo of a textile with a small local defect", "a weave with a flaw in one spot"),
    "global": ("a photo of a textile whose whole weave is defective", "a weave that is wrong all over"),
}
"""Texts of each class; the first names it for zero-shot use."""

_FOLDERS = {"normal": "nominal", "local": "local", "global": "global"}
_TEST, _VALIDATION = 0.4, 0.1
_BLOCK_ROWS = 128


class TextileSet:
    """Textile photos by path, decoded only when they are used.

    Args:
        split: ``train`` (about 50 %), ``validation`` (10 %), ``test`` (40 %) or ``all``, by a hash of class and file.
        classes: which of ``normal``, ``local``, ``global``; ``("normal",)`` is what anomaly detectors learn from.
        captions: ``one`` or ``several`` for each image.

    Attributes:
        paths: file of each image.
        labels: its class.

    Raises:
        MissingExtraError: without ``conformal-clip-data``.
        InputError: for a setting that is not one of the above, or files that are not there.
    """

    name = "textile"

    def __init__(
        self,
        *,
        split: Literal["train", "validation", "test", "all"] = "train",
        classes: tuple[str, ...] = ("normal", "local", "global"),
        captions: Literal["one", "several"] = "one",
    ) -> None:
        """List the files of the split; none is opened."""
        settings.one_of(split, ("train", "validation", "test", "all"), where="textile: split")
        settings.one_of(captions, ("one", "several"), where="textile: captions")
        if isinstance(classes, str) or not classes:
            raise InputError(f"textile: classes: expected a list such as ('normal', 'local'), got {classes!r}")
        for label in classes:
            settings.one_of(label, CAPTIONS, where="textile: classes")
        root = _root()
        self.split, self.version = split, f"1-data{version('conformal-clip-data')}"
        self.paths: list[Path] = []
        self.labels: list[str] = []
        for label in (label for label in CAPTIONS if label in classes):
            files = sorted((root / _FOLDERS[label]).glob("*.jpg"))
            if not files:
                raise InputError(f"{root / _FOLDERS[label]}: expected the images of conformal-clip-data, found none")
            for path in files:
                if split in ("all", _split_of(label, path.stem)):
                    self.paths.append(path)
                    self.labels.append(label)
        self._several = captions == "several"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def row(self, index: int) -> Row:
        """One image by path."""
        label = self.labels[index]
        texts = CAPTIONS[label] if self._several else CAPTIONS[label][:1]
        return Row(f"{label}/{self.paths[index].stem}", self.paths[index], texts, {"label": label})

    def blocks(self) -> Sequence[Block]:
        """Stretches of 128 rows."""
        return settings.cut(len(self), length=_BLOCK_ROWS)

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one stretch from its row ``start`` on."""
        for index in settings.indices(block, start=start, rows=len(self), length=_BLOCK_ROWS, where="textile"):
            yield self.row(index)


def _root() -> Path:
    try:
        import conformal_clip_data
    except ModuleNotFoundError as error:
        raise MissingExtraError("conformal-clip-data", extra="textile") from error
    return Path(conformal_clip_data.textile_simulated_root())


def _split_of(label: str, stem: str) -> str:
    draw = float(hash_uniform([f"{label}/{stem}"], salt="textile")[0])
    return "test" if draw < _TEST else "validation" if draw < _TEST + _VALIDATION else "train"
