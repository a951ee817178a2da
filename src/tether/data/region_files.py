"""Regions of images out of files beside them: a table of boxes, or a folder of masks."""

from __future__ import annotations

import abc
import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
from jaxtyping import Bool, Float

from tether.core.atomic_io import local, read_bytes
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted, unguarded
from tether.data.boxes import Unit, unit_of
from tether.data.images import decode
from tether.data.paths import without_ending
from tether.data.sources.columns import shortened

_COLUMNS = ("key", "x0", "y0", "x1", "y1")
_LARGEST = 2**28
"""Bytes of a table of boxes, at most."""
_MOST_NAMES = 40
"""Columns that an error lists, at most."""
_MOST_KEYS = 5
"""Keys of images that an error lists, at most."""
MOST_CLASSES = 150
"""A mask of several numbers up to this one numbers classes; smooth edges reach white."""


@dataclass(frozen=True, slots=True)
class NamedRegion:
    """A region of an image.

    Attributes:
        name: given, or its number among those of its image, from 1.
        box: x0, y0, x1, y1 in shares of the image; around the mask where there is one.
        mask: of the image's size, or None.
        text: what stands there; empty where the file does not say.
    """

    name: str
    box: Float[np.ndarray, 4]
    mask: Bool[np.ndarray, "h w"] | None = None
    text: str = ""


class RegionFiles(abc.ABC):
    """Where the regions of images are read.

    Attributes:
        path: of the table or the folder.
        unit: what boxes are in; None of masks.
        texts: whether it says what stands in regions.
    """

    unit: Unit | None = None
    texts: bool = False

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
    def names(self) -> Iterable[str]:
        """What names images there: keys of a table, files of a folder."""

    @abc.abstractmethod
    def names_of(self, key: str) -> list[str]:
        """Those of one image."""

    def unmatched(self, keys: Iterable[str]) -> list[str]:
        """Those that belong to no image with one of these keys."""
        known = {name for key in keys for name in self.names_of(key)}
        return [name for name in self.names() if name not in known]

    def check(self, keys: Iterable[str]) -> None:
        """Refuse regions of images that are not there.

        Raises:
            InputError: it names the first of them; or a name that two images have.
        """
        known = list(dict.fromkeys(keys))
        owner: dict[str, str] = {}
        for name, one in ((name, key) for key in known for name in self.names_of(key)):
            if owner.setdefault(name, one) != one:
                both = f"{quoted(owner[name])} and {quoted(one)}"
                raise InputError(f"{self.path}: {quoted(name)}: {both} have this name; write it with its ending")
        if left := self.unmatched(known):
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            images = closest(left[0], known, listed=_MOST_KEYS)
            raise InputError(f"{self.path}: {quoted(left[0])}{more}: no image has this key; {images}")


class BoxTable(RegionFiles):
    """A CSV file with the columns key, x0, y0, x1, y1 and, if wanted, name, unit and text; x1 and y1 are exclusive.

    A key may leave out the ending of its image's file, or have one that the image's key lacks.
    """

    def __init__(self, path: Path, *, unit: Unit | None = None) -> None:
        """Read the table.

        Args:
            path: of the file.
            unit: ``pixel`` of the image as it lies upright, or ``share`` of its width and height; None takes what the
                column ``unit`` says, the same in all rows, and without one goes by the numbers: see
                ``data.boxes.unit_of``.

        Raises:
            InputError: missing columns, a box that is none, or two of one name at an image; it names the row.
        """
        super().__init__(path)
        self._rows: dict[str, list[tuple[int, str, tuple[float, ...], str]]] = {}
        said: dict[str, int] = {}
        text = read_bytes(path, limit=_LARGEST).decode("utf-8-sig", errors="surrogateescape")
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            given = tuple(table.fieldnames or ())
        except csv.Error as error:
            raise InputError(f"{path}: line 1: {error}") from error
        if missing := [name for name in _COLUMNS if name not in given]:
            raise InputError(
                f"{path}: expected the columns {', '.join(_COLUMNS)} [, name, unit], without {missing[0]!r}; "
                f"{closest(missing[0], [shortened(name) for name in given[:_MOST_NAMES]])}"
            )
        self.texts = "text" in given
        try:
            for row in table:
                self._add(table.line_num, row)
                said.setdefault((row.get("unit") or "").strip().lower(), table.line_num)
        except csv.Error as error:
            raise InputError(f"{path}: line {table.line_num}: {error}") from error
        if not self._rows:
            raise InputError(f"{path}: holds no box")
        self._longer: dict[str, list[str]] = {}  # keys whose image may be named without their ending
        for key in self._rows:
            if (bare := without_ending(key)) != key:
                self._longer.setdefault(bare, []).append(key)
        self.unit = unit or self._unit_said(said)
        for line, _, box, _ in (one for some in self._rows.values() for one in some if self.unit == "share"):
            if not (min(box) >= 0 and max(box) <= 1):
                hint = "; for pixels say unit=pixel, or --region-unit pixel" if unit is None else ""
                got = ", ".join(f"{value:g}" for value in box)
                raise InputError(f"{path}: line {line}: expected shares of the image, in [0, 1], got {got}{hint}")

    def _unit_said(self, said: Mapping[str, int]) -> Unit:
        """The unit of all boxes by the words of the column, each with its first line, or by the numbers."""
        for word, line in said.items():
            if word not in ("", "pixel", "share"):
                raise InputError(f"{self.path}: line {line}: unit: expected pixel or share, got {quoted(word)}")
            if len(said) > 1 and line == max(said.values()):
                both = " and ".join(repr(one) for one in said)
                raise InputError(f"{self.path}: line {line}: unit: expected the same in all rows, got {both}")
        if word := next(iter(said)):
            return cast(Unit, word)
        return unit_of(np.array([box for some in self._rows.values() for _, _, box, _ in some]))

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
        known = self._rows.setdefault(key, [])
        name = unguarded(row.get("name") or "") or str(len(known) + 1)
        if name in (other for _, other, _, _ in known):
            raise InputError(f"{where}: {quoted(key)} has a region {quoted(name)} already")
        known.append((line, name, box, unguarded(row.get("text") or "").strip()))

    def of(self, key: str, *, size: tuple[int, int]) -> list[NamedRegion]:
        """See RegionFiles."""
        height, width = size
        found = []
        for line, name, box, text in (row for named in self.names_of(key) for row in self._rows[named]):
            shares = np.array(box)
            if self.unit == "pixel":
                shares = shares / (width, height, width, height)
                if shares.min() < 0 or shares.max() > 1:
                    got = ", ".join(f"{value:g}" for value in box)
                    expected = f"expected a box inside {quoted(key)} of {width} x {height} pixels"
                    raise InputError(f"{self.path}: line {line}: {expected}, got {got}")
            found.append(NamedRegion(name, shares, text=text))
        return found

    def names(self) -> Iterable[str]:
        """See RegionFiles."""
        return self._rows

    def names_of(self, key: str) -> list[str]:
        """See RegionFiles.

        Raises:
            InputError: the table has the image with its ending and without.
        """
        bare = without_ending(key)
        found = [name for name in dict.fromkeys((key, bare)) if name in self._rows]
        found += [name for name in self._longer.get(key, ()) if name not in found]
        if len(found) > 1:
            raise InputError(f"{self.path}: {' and '.join(map(quoted, found))}: two names of one image; expected one")
        return found


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

    def names(self) -> Iterable[str]:
        """See RegionFiles."""
        return [f"{stem}.png" for stem in self._files]

    def names_of(self, key: str) -> list[str]:
        """See RegionFiles."""
        return [f"{stem}.png" for stem in self._stems(key)]


def open_regions(path: str | Path, *, unit: Unit | None = None) -> RegionFiles:
    """The regions in a ``.csv`` file or a folder of masks; ``unit`` is as for ``BoxTable``.

    Raises:
        InputError: neither, or see the two.
    """
    place = local(path)
    if place.is_dir():
        return MaskFolder(place)
    if place.is_file():
        return BoxTable(place, unit=unit)
    raise InputError(f"{path}: expected a table of boxes ({', '.join(_COLUMNS)} [, name]) or a folder of masks")
