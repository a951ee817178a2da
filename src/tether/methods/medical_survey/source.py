"""Another source's images through a window: CT in Hounsfield units, 16-bit X-rays, volumes slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.core.types import Block, Row
from tether.data.intensity_window import Curve, DeepImage, WindowLevel
from tether.methods.medical_survey.high_bit_depth import read_deep

Frames = Literal["first", "middle", "each"]


class WindowedSource:
    """Rows of another source whose images are read at full depth and shown through a window, as grey pixels.

    Where a file is DICOM, the row's meta gains ``modality``, ``view`` and, with a secret, the pseudonyms ``patient``
    and ``study``; a value that the row already has stays. An image that cannot be read makes a bad row.
    """

    @checked
    def __init__(
        self,
        *,
        source: str | dict[str, Any],
        center: float | None = None,
        width: float | None = None,
        curve: Curve = "linear",
        frames: Frames = "first",
        secret: str = "",
    ) -> None:
        """Open the other source.

        Args:
            source: the other source, as ``open_source`` takes it.
            center: middle of the window in the unit of the values (Hounsfield units for CT); None with ``width`` None
                takes the file's own window, or one that shows nearly all values.
            width: of the window.
            curve: see ``WindowLevel``.
            frames: of a volume or a film the ``first`` frame, the ``middle`` one, or ``each`` as a row of its own,
                whose key ends in ``#`` and its number, and whose meta says which ``frame`` it is.
            secret: makes pseudonyms of patients and studies, see ``read_dicom``.
        """
        from tether.data.opening import open_source

        if (center is None) != (width is None):
            raise InputError(f"windowed: center and width come together, got {center!r} and {width!r}")
        self._window = None if center is None or width is None else WindowLevel(center, width, curve)
        self._inner, self._frames, self._secret = open_source(source, where="windowed: source"), frames, secret
        self.name = self._inner.name
        named = "" if not secret else " pseudonyms"
        self.version = f"{self._inner.version}-windowed1 {center} {width} {curve} {frames}{named}"

    def blocks(self) -> Sequence[Block]:
        """Those of the other source; with ``each`` only reading tells how many rows there are."""
        found = self._inner.blocks()
        return [Block(block.id) for block in found] if self._frames == "each" else found

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one piece from row ``start`` on."""
        if self._frames != "each":
            for row in self._inner.read(block, start=start):
                yield from self._shown(row)
            return
        done = 0
        for row in self._inner.read(block):
            for each in self._shown(row):
                if done >= start:
                    yield each
                done += 1

    def _shown(self, row: Row) -> Iterator[Row]:
        if row.image is None:
            yield row
            return
        try:
            image = row.image if isinstance(row.image, (bytes, np.ndarray)) else Path(row.image)
            deep = read_deep(image, name=row.key, secret=self._secret)
            pixels = _pixels(deep, window=self._window)
        except InputError as error:
            yield Row(row.key, None, bad=str(error))
            return
        facts = {"modality": deep.modality, "view": deep.view, "patient": deep.patient, "study": deep.study}
        meta = {**{name: value for name, value in facts.items() if value not in ("", None)}, **row.meta}
        if self._frames != "each":
            yield Row(row.key, pixels[0 if self._frames == "first" else len(pixels) // 2], row.texts, meta)
            return
        for number, frame in enumerate(pixels):
            yield Row(f"{row.key}#{number:04d}", frame, row.texts, {**meta, "frame": number})


def _pixels(deep: DeepImage, *, window: WindowLevel | None) -> np.ndarray:
    """(frames, h, w) or (frames, h, w, 3) uint8; colours are left as they are unless a window is given."""
    return deep.colour if deep.colour is not None and window is None else deep.grey(window=window)
