"""Images of woven cloth, normal or with a local or a global defect: 2,000 JPEG files for inspection by words.

Simulated textiles of Megahed et al. (arXiv 2501.12596), 250 x 250, grey: 1,000 normal, 500 with one small local flaw,
500 whose weave has changed everywhere. They come with the library ``conformal-clip-data`` (MIT, 120 MB), the extra
``textile``.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import MinLen

from tether.core.errors import InputError, MissingExtraError
from tether.core.hash_rng import hash_uniform
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource

Label = Literal["normal", "local", "global"]
CAPTIONS: dict[str, tuple[str, ...]] = {
    "normal": ("a photo of a normal textile without defects", "an even weave with nothing wrong"),
    "local": ("a photo of a textile with a small local defect", "a weave with a flaw in one spot"),
    "global": ("a photo of a textile whose whole weave is defective", "a weave that is wrong all over"),
}
"""Texts of each class; the first names it for zero-shot use."""

_FOLDERS = {"normal": "nominal", "local": "local", "global": "global"}
_TEST, _VALIDATION = 0.4, 0.1


class TextileSet(IndexedSource):
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
        InputError: files that are not there.
    """

    name = "textile"
    block_rows = 128

    @checked
    def __init__(
        self,
        *,
        split: Literal["train", "validation", "test", "all"] = "train",
        classes: Annotated[tuple[Label, ...], MinLen(1)] = ("normal", "local", "global"),
        captions: Literal["one", "several"] = "one",
    ) -> None:
        """List the files of the split; none is opened."""
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


def _root() -> Path:
    try:
        import conformal_clip_data
    except ModuleNotFoundError as error:
        raise MissingExtraError("conformal-clip-data", extra="textile") from error
    return Path(conformal_clip_data.textile_simulated_root())


def _split_of(label: str, stem: str) -> str:
    draw = float(hash_uniform([f"{label}/{stem}"], salt="textile")[0])
    return "test" if draw < _TEST else "validation" if draw < _TEST + _VALIDATION else "train"
