"""Regions of a row: boxes, masks and phrases in its columns, held to what they must be and moved with the pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float

from tether.core.atomic_io import parse_json
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.printable import is_text
from tether.core.ranges import Share, checked
from tether.core.types import Regions, Row
from tether.data.boxes import ROUNDING, SHARES, Unit, unit_of
from tether.data.images import decode
from tether.data.placement import MaskMover, Placement

MOST = 4096
"""Regions of a row, at most."""
MOST_MASK_BYTES = 1 << 28
"""Bytes of a row's masks, at most, as they lie in their column."""
MOST_MASK_PIXELS = 1 << 31
"""Pixels of a row's masks that are looked at, at most: 178 masks of 12 megapixels; as files they may be tiny."""
MOST_BATCH_BYTES = 1 << 33
"""Bytes of a batch's masks in one view, at most."""
_LONGEST = 1 << 20
"""Characters of a phrase, at most."""


@dataclass(frozen=True, slots=True)
class RowRegions:
    """The regions of one row before they are moved.

    Attributes:
        boxes: (n, 4) x0, y0, x1, y1 in shares of the image.
        phrases: n texts.
        masks: n encoded masks or arrays, or one for all whose value k + 1 is region k; None without.
    """

    boxes: Float[np.ndarray, "n 4"]
    phrases: Sequence[str]
    masks: Any = None


@dataclass(frozen=True, slots=True)
class SeenRegions:
    """The regions of one row in one view.

    Attributes:
        boxes: (n, 4) in shares of the view, 0 where not valid.
        valid: (n,) whether enough of the box is left.
        masks: (n, h, w), or None.
    """

    boxes: np.ndarray
    valid: np.ndarray
    masks: np.ndarray | None = None


class RegionColumns:
    """Which columns of a row hold regions, and how many of them a batch carries.

    Columns hold lists, arrays or JSON. A row with nothing or an empty list in ``boxes`` has no regions; one without the
    column is a bad row. Boxes must be those of the image as it lies upright, turned by its EXIF mark.

    Example:
        >>> import numpy as np
        >>> from tether.core.types import Row
        >>> from tether.data.regions import RegionColumns
        >>> row = Row("7", None, meta={"bbox": "[[10, 20, 30, 40]]", "said": ["a red star"]})
        >>> columns = RegionColumns(most=4, boxes="bbox", phrases="said", unit="pixel", form="xywh")
        >>> found = columns.read(row, size=(100, 100))
        >>> found.boxes.tolist(), found.phrases
        ([[0.1, 0.2, 0.4, 0.6]], ['a red star'])
    """

    @checked
    def __init__(
        self,
        *,
        most: Annotated[int, Ge(1), Le(MOST)],
        boxes: str = "boxes",
        phrases: str | None = None,
        masks: str | None = None,
        unit: Unit | None = None,
        form: Literal["xyxy", "xywh"] = "xyxy",
        least: Share = 0.25,
    ) -> None:
        """Take the settings.

        Args:
            most: regions of an image in a batch, which always has room for so many. Of more, some are drawn, those
                that ``image`` shows first; all views of an image have the same ones, in the same places.
            boxes: column of boxes (n, 4).
            phrases: column of n texts; None says nothing of the regions.
            masks: column of n masks, each an image file's bytes or an array (h, w), not 0 inside; or one file or array
                for all whose value k + 1 is region k. They have the image's size. None has no masks.
            unit: ``share`` of the image's width and height, or ``pixel``; None goes by each row's numbers, see
                ``data.boxes.unit_of``.
            form: two corners, or a corner and the sides (COCO's ``bbox``, with ``unit: pixel``).
            least: share of a box's area that must be left in a view; with less the region is not valid there.
        """
        self.most, self._unit, self._form, self._least = most, unit, form, least
        self._boxes, self._phrases, self._masks = boxes, phrases, masks

    def read(self, row: Row, *, size: tuple[int, int]) -> RowRegions:
        """The regions of a row.

        Args:
            row: with these columns in its meta.
            size: height and width of its image in pixels.

        Raises:
            InputError: a missing column, boxes that are none, another number of phrases or masks than of boxes, or
                more than are read; it names the row, the column and what came.
        """
        numbers, unit = self._numbers(row)
        boxes = self._in_shares(numbers, unit, size=size, where=f"{row.key}: {self._boxes}")
        phrases: Sequence[str] = [""] * len(boxes)
        if self._phrases is not None:
            phrases = self.phrases_of(row)
            if len(phrases) != len(boxes):
                expected = f"expected {len(boxes)} phrases, one for each box"
                raise InputError(f"{row.key}: {self._phrases}: {expected}, got {len(phrases)}")
        masks = None
        if self._masks is not None and len(boxes):
            masks = _masks(_cell(row, self._masks), count=len(boxes), where=f"{row.key}: {self._masks}")
        return RowRegions(boxes, phrases, masks)

    def phrases_of(self, row: Row) -> list[str]:
        """The phrases of a row, as they are.

        Raises:
            InputError: a missing column, or what is no list of texts.
        """
        cell = None if self._phrases is None else _cell(row, self._phrases)
        return [] if cell is None else _texts(cell, where=f"{row.key}: {self._phrases}")

    def wanted(self) -> dict[str, str]:
        """The columns that rows must have, by what the settings call them."""
        named = {"boxes": self._boxes, "phrases": self._phrases, "masks": self._masks}
        return {what: column for what, column in named.items() if column is not None}

    def unit_of(self, row: Row) -> Unit | None:
        """What the boxes of a row are taken to be in; None where it has none.

        Raises:
            InputError: a missing column, or what are no boxes.
        """
        numbers, unit = self._numbers(row)
        return unit if len(numbers) else None

    def _numbers(self, row: Row) -> tuple[Float[np.ndarray, "n 4"], Unit]:
        """The boxes of a row as they stand there, and their unit."""
        where, cell = f"{row.key}: {self._boxes}", _cell(row, self._boxes)
        if cell is None:
            return np.zeros((0, 4)), self._unit or "share"
        if not isinstance(cell, (list, tuple, np.ndarray)):
            raise InputError(f"{where}: expected a list of boxes, got {type(cell).__name__}")
        if len(cell) > MOST:
            raise InputError(f"{where}: {len(cell)} boxes; at most {MOST} are read")
        try:
            boxes = np.array([list(box) for box in cell])
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"{where}: expected boxes of 4 numbers each, got {_short(cell)}") from None
        if boxes.dtype.kind not in "fiu" or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise InputError(f"{where}: expected boxes of 4 numbers each, got {_short(cell)}")
        boxes = boxes.astype(np.float64)
        return boxes, self._unit or unit_of(boxes)

    def _in_shares(
        self, numbers: Float[np.ndarray, "n 4"], unit: Unit, *, size: tuple[int, int], where: str
    ) -> Float[np.ndarray, "n 4"]:
        boxes = numbers.copy()
        if self._form == "xywh":
            boxes[:, 2:] += boxes[:, :2]
        if unit == "pixel":
            boxes /= (size[1], size[0], size[1], size[0])
        inside = ((boxes >= -ROUNDING) & (boxes <= 1 + ROUNDING)).all(axis=1)  # which NaN is not
        boxes = np.clip(boxes, 0, 1)
        wide = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        for good, expected in ((inside, "corners inside the image"), (wide, "a width and a height above 0")):
            if not good.all():
                number = int(np.flatnonzero(~good)[0])
                said = "shares of the image" if unit == "share" else f"pixels of {size[1]} x {size[0]}"
                got = numbers[number].tolist()
                hint = "; for pixels say unit=pixel" if unit == "share" and max(got) > SHARES else ""
                raise InputError(f"{where}: box {number}: expected {expected} ({self._form}, {said}), got {got}{hint}")
        return boxes

    def mask(self, regions: RowRegions, number: int, *, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """Where one region of a row is that has masks.

        Args:
            regions: of the row.
            number: of the region.
            size: height and width of its image in pixels.

        Raises:
            InputError: a mask that is none, or of another size than the image, or with nothing inside.
        """
        where = f"{self._masks}: mask {number}"
        each = isinstance(regions.masks, list)
        values = _mask(regions.masks[number] if each else regions.masks, size=size, where=where)
        inside = values != 0 if each else values == number + 1
        if not inside.any():
            raise InputError(f"{where}: expected something inside, got an empty mask")
        return inside

    def chosen(self, regions: RowRegions, placement: Placement, *, draw: int) -> np.ndarray:
        """Which regions a batch carries, in the row's order: those that the image shows go before those it does not.

        Args:
            regions: of a row.
            placement: of the view ``image``.
            draw: 64 random bits of this seed, epoch and row.
        """
        count = len(regions.boxes)
        if count <= self.most:
            return np.arange(count)
        hidden = placement.moved(regions.boxes)[1] < self._least
        chance = np.random.Generator(np.random.Philox(hash_int(str(draw), salt="regions"))).random(count)
        return np.sort(np.lexsort((chance, hidden))[: self.most])

    def seen(
        self,
        regions: RowRegions,
        chosen: np.ndarray,
        views: Mapping[str, tuple[Placement, tuple[int, int]]],
        *,
        size: tuple[int, int],
        where: str,
    ) -> dict[str, SeenRegions]:
        """The chosen regions in each view.

        Args:
            regions: of a row.
            chosen: numbers of some of them.
            views: by name: where it lies, and its height and width in pixels.
            size: height and width of the image in pixels.
            where: the row, for errors.

        Raises:
            InputError: a mask that is none, or of another size than the image.
        """
        boxes = regions.boxes[chosen]
        found: dict[str, SeenRegions] = {}
        for name, (placement, shape) in views.items():
            moved, left = placement.moved(boxes)
            valid = left >= self._least
            masks = np.zeros((len(chosen), *shape), dtype=bool) if regions.masks is not None else None
            found[name] = SeenRegions(moved * valid[:, None], valid, masks)
        if regions.masks is not None:
            where = f"{where}: {self._masks}"
            if len(chosen) * size[0] * size[1] > MOST_MASK_PIXELS:
                need = f"{len(chosen)} masks of {size[0]} x {size[1]}"
                raise InputError(f"{where}: {need} pixels; at most {MOST_MASK_PIXELS:,} pixels are read; lower `most`")
            whole = None if isinstance(regions.masks, list) else _mask(regions.masks, size=size, where=where)
            for place, number in enumerate(chosen):
                if whole is not None:
                    inside = whole == number + 1
                else:
                    inside = _mask(regions.masks[number], size=size, where=f"{where}: mask {number}") != 0
                if not inside.any():
                    raise InputError(f"{where}: mask {number}: expected something inside, got an empty mask")
                mover = MaskMover(inside)
                for name, (placement, shape) in views.items():
                    seen = found[name]
                    if seen.valid[place] and seen.masks is not None:
                        seen.masks[place] = mover.seen(placement, size=shape)
                        seen.valid[place] = seen.masks[place].any()
                        seen.boxes[place] *= seen.valid[place]
        return found

    def batched(
        self, seen: Sequence[SeenRegions], phrases: Sequence[Sequence[str]], *, size: tuple[int, int]
    ) -> Regions:
        """The regions of a batch in one view.

        Args:
            seen: of each row.
            phrases: of each row.
            size: height and width of the view in pixels.
        """
        rows = len(seen)
        boxes, valid = np.zeros((rows, self.most, 4), np.float32), np.zeros((rows, self.most), bool)
        if self._masks is not None and rows * self.most * size[0] * size[1] > MOST_BATCH_BYTES:
            need = f"{rows} x {self.most} masks of {size[0]} x {size[1]}"
            raise InputError(
                f"regions: {need}: above {MOST_BATCH_BYTES:,} bytes a batch; lower `most` or the batch size"
            )
        masks = np.zeros((rows, self.most, *size), bool) if self._masks is not None else None
        for row, one in enumerate(seen):
            boxes[row, : len(one.boxes)], valid[row, : len(one.valid)] = one.boxes, one.valid
            if masks is not None and one.masks is not None:
                masks[row, : len(one.masks)] = one.masks
        words = ids = None
        if self._phrases is not None:
            words = [[*said, *[""] * (self.most - len(said))] for said in phrases]
            ids = torch.tensor([[_phrase_id(text) for text in said] for said in words])
        found = None if masks is None else torch.from_numpy(masks)
        return Regions(torch.from_numpy(boxes), torch.from_numpy(valid), found, words, ids)


@lru_cache(1 << 16)
def _phrase_id(text: str) -> int:
    return hash_int(text, salt="phrase") >> 1 if text else -1


def _cell(row: Row, column: str) -> Any:
    """What a column holds, JSON read; None for nothing."""
    if column not in row.meta:
        raise InputError(f"{row.key}: no column {column!r} for its regions; {closest(column, row.meta)}")
    cell = row.meta[column]
    if isinstance(cell, str):
        cell = parse_json(cell, where=f"{row.key}: {column}") if cell.strip() else None
    if isinstance(cell, np.ndarray) and not cell.ndim:
        cell = cell.item()
    return None if isinstance(cell, (list, tuple, np.ndarray)) and not len(cell) else cell


def _texts(cell: Any, *, where: str) -> list[str]:
    if not isinstance(cell, (list, tuple, np.ndarray)) or len(cell) > MOST:
        raise InputError(f"{where}: expected a list of at most {MOST} texts, got {_short(cell)}")
    for text in cell:
        if not isinstance(text, str) or not is_text(text) or len(text) > _LONGEST:
            raise InputError(f"{where}: expected texts of at most {_LONGEST:,} characters, got {_short(text)}")
    return [str(text) for text in cell]


def _masks(cell: Any, *, count: int, where: str) -> Any:
    """Masks as a list, or what holds all of them; not decoded yet."""
    if isinstance(cell, np.ndarray) and cell.ndim == 3:
        cell = list(cell)
    if isinstance(cell, (list, tuple)):
        cell = list(cell)
        if len(cell) != count:
            raise InputError(f"{where}: expected {count} masks, one for each box, got {len(cell)}")
    elif not isinstance(cell, (bytes, np.ndarray)):
        raise InputError(f"{where}: expected a list of masks, or one for all regions, got {_short(cell)}")
    each = cell if isinstance(cell, list) else [cell]
    size = sum(len(one) if isinstance(one, bytes) else one.nbytes if isinstance(one, np.ndarray) else 0 for one in each)
    if size > MOST_MASK_BYTES:
        raise InputError(f"{where}: {size:,} bytes of masks; at most {MOST_MASK_BYTES:,} are read")
    return cell


def _mask(mask: Any, *, size: tuple[int, int], where: str) -> np.ndarray:
    """(h, w) whole numbers of a mask of the image's size."""
    if isinstance(mask, bytes):
        values = decode(mask, name=where)[0].numpy()
    else:
        try:
            values = np.asarray(mask)
        except ValueError:
            raise InputError(f"{where}: expected rows of equal length") from None
    if values.dtype.kind not in "bui":
        raise InputError(f"{where}: expected a file's bytes, or whole numbers (h, w), got {_short(mask)}")
    if values.shape != size:
        raise InputError(f"{where}: expected the image's size {size}, got {values.shape}")
    return values


def _short(value: Any) -> str:
    return f"{type(value).__name__} {repr(value)[:80]}"
