"""Regions of images out of files beside them: a table of boxes, or a folder of masks."""

from __future__ import annotations

import abc
import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from tether.core.atomic_io import local, read_bytes
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted, unguarded
from tether.data.images import decode

Unit = Literal["pixel", "share"]
_COLUMNS = ("key", "x0", "y0", "x1", "y1")
_LARGEST = 2**28
"""Bytes of a table of boxes, at most."""
MOST_CLASSES = 150
"""A mask of several numbers up to this one numbers classes; smooth edges reach white."""


@dataclass(frozen=True, slots=True)
class NamedRegion:
    """A region of an image.

    Attributes:
        name: given, or its number among those of its image, from 1.
        box: x0, y0, x1, y1 in shares of the image; around the mask where there is one.
        mask: of the image's size, or None.
    """

    name: str
    box: Float[np.ndarray, 4]
    mask: Bool[np.ndarray, "h w"] | None = None


class RegionFiles(abc.ABC):
    """Where the regions of images are read.

    Attributes:
        path: of the table or the folder.
    """

    def __init__(self, path: Path) -> None:
        """Keep the path."""
        self.path = path

    @abc.abstractmethod
    def of(self, key: str, *, size: tuple[int, int]) -> list[NamedRegion]:
        """The regions of an image, in the file's order; none where there are none.

        Args:
            key: of the image.
            size: its height and width in pixels.

        Raises:
            InputError: what is no region of an image of this size; it names the file and the row.
        """

    @abc.abstractmethod
    def unmatched(self, keys: Iterable[str]) -> list[str]:
        """What belongs to no image with one of these keys: keys of a table, names of files."""

    def check(self, keys: Iterable[str]) -> None:
        """Refuse regions of images that are not there.

        Raises:
            InputError: it names the first of them.
        """
        known = list(keys)
        if left := self.unmatched(known):
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            raise InputError(f"{self.path}: {quoted(left[0])}{more}: no image has this key; {closest(left[0], known)}")


class BoxTable(RegionFiles):
    """A CSV file with the columns key, x0, y0, x1, y1 and, if wanted, name; x1 and y1 are exclusive."""

    def __init__(self, path: Path, *, unit: Unit = "pixel") -> None:
        """Read the table.

        Args:
            path: of the file.
            unit: ``pixel`` of the image as it lies upright, or ``share`` of its width and height.

        Raises:
            InputError: missing columns, a box that is none, or two of one name at an image; it names the row.
        """
        super().__init__(path)
        self.unit = unit
        self._rows: dict[str, list[tuple[int, str, tuple[float, ...]]]] = {}
        text = read_bytes(path, limit=_LARGEST).decode("utf-8-sig", errors="surrogateescape")
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            given = tuple(table.fieldnames or ())
        except csv.Error as error:
            raise InputError(f"{path}: line 1: {error}") from error
        if missing := [name for name in _COLUMNS if name not in given]:
            raise InputError(f"{path}: expected the columns {', '.join(_COLUMNS)} [, name], without {missing[0]!r}")
        try:
            for row in table:
                self._add(table.line_num, row)
        except csv.Error as error:
            raise InputError(f"{path}: line {table.line_num}: {error}") from error
        if not self._rows:
            raise InputError(f"{path}: holds no box")

    def _add(self, line: int, row: Mapping[str, str | None]) -> None:
        where = f"{self.path}: line {line}"
        key = unguarded(row["key"] or "")
        cells = [row[name] or "" for name in _COLUMNS[1:]]
        try:
            box = tuple(float(cell) for cell in cells)
        except ValueError:
            raise InputError(f"{where}: expected four numbers x0, y0, x1, y1, got {', '.join(cells)!r:.100}") from None
        x0, y0, x1, y1 = box
        if not all(map(math.isfinite, box)) or x0 >= x1 or y0 >= y1:
            raise InputError(f"{where}: expected x0 < x1 and y0 < y1, got {', '.join(cells):.100}")
        if self.unit == "share" and not (min(box) >= 0 and max(box) <= 1):
            raise InputError(f"{where}: expected shares of the image, in [0, 1], got {', '.join(cells):.100}")
        known = self._rows.setdefault(key, [])
        name = unguarded(row.get("name") or "") or str(len(known) + 1)
        if name in (other for _, other, _ in known):
            raise InputError(f"{where}: {quoted(key)} has a region {quoted(name)} already")
        known.append((line, name, box))

    def of(self, key: str, *, size: tuple[int, int]) -> list[NamedRegion]:
        """See RegionFiles."""
        height, width = size
        found = []
        for line, name, box in self._rows.get(key, ()):
            shares = np.array(box)
            if self.unit == "pixel":
                shares = shares / (width, height, width, height)
                if shares.min() < 0 or shares.max() > 1:
                    got = ", ".join(f"{value:g}" for value in box)
                    expected = f"expected a box inside {quoted(key)} of {width} x {height} pixels"
                    raise InputError(f"{self.path}: line {line}: {expected}, got {got}")
            found.append(NamedRegion(name, shares))
        return found

    def unmatched(self, keys: Iterable[str]) -> list[str]:
        """See RegionFiles."""
        known = set(keys)
        return [key for key in self._rows if key not in known]


class MaskFolder(RegionFiles):
    """A folder of PNG files, ``KEY.png`` or several ``KEY.NAME.png``, not 0 inside; KEY with or without its ending."""

    def __init__(self, path: Path) -> None:
        """List the files.

        Raises:
            InputError: there is none.
        """
        super().__init__(path)
        self._files = {one.relative_to(path).as_posix()[:-4]: one for one in sorted(path.rglob("*.png"))}
        if not self._files:
            raise InputError(f"{path}: holds no mask; expected KEY.png or KEY.NAME.png for each image")
        self._parts: dict[str, list[str]] = {}
        for stem in self._files:
            self._parts.setdefault(stem.rpartition(".")[0], []).append(stem)

    def _stems(self, key: str) -> dict[str, str]:
        """The files of an image, without ``.png``, with the names of their regions."""
        suffix = PurePosixPath(key).suffix
        bases = [key, key.removesuffix(suffix)] if suffix else [key]
        found = {base: "1" for base in bases if base in self._files}
        for base in bases:
            for stem in self._parts.get(base, ()):
                found.setdefault(stem, stem[len(base) + 1 :])
        return found

    def of(self, key: str, *, size: tuple[int, int]) -> list[NamedRegion]:
        """See RegionFiles."""
        found = []
        for stem, name in self._stems(key).items():
            file = self._files[stem]
            values = decode(file, name=str(file)).amax(dim=0).numpy()
            if values.shape != size:
                got = f"{values.shape[1]} x {values.shape[0]}"
                raise InputError(f"{file}: expected the {size[1]} x {size[0]} pixels of its image {key!r}, got {got}")
            inside = np.unique(values[values != 0])
            if len(inside) > 1 and inside[-1] <= MOST_CLASSES:
                raise InputError(
                    f"{file}: expected a mask of one region, 0 outside, got numbers up to {inside[-1]}, which look "
                    "like classes; write one mask for each, KEY.NAME.png"
                )
            mask = values != 0
            if not mask.any():
                raise InputError(f"{file}: expected something inside, got an empty mask")
            down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            ends = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1])
            found.append(NamedRegion(name, ends / (size[1], size[0], size[1], size[0]), mask))
        return found

    def unmatched(self, keys: Iterable[str]) -> list[str]:
        """See RegionFiles."""
        known = {stem for key in keys for stem in self._stems(key)}
        return [self._files[stem].relative_to(self.path).as_posix() for stem in self._files if stem not in known]


def open_regions(path: str | Path, *, unit: Unit = "pixel") -> RegionFiles:
    """The regions in a ``.csv`` file or a folder of masks.

    Raises:
        InputError: neither, or see the two.
    """
    place = local(path)
    if place.is_dir():
        return MaskFolder(place)
    if place.is_file():
        return BoxTable(place, unit=unit)
    raise InputError(f"{path}: expected a table of boxes ({', '.join(_COLUMNS)} [, name]) or a folder of masks")
