"""What ``tether read`` reads: images as they are, or what lies in boxes of them, given or found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data.bad_rows import BadRows
from tether.data.boxes import Unit, cut_box
from tether.data.region_files import NamedRegion, RegionFiles, open_regions
from tether.tasks.read.rapid import find_lines

FOUND_BY = "rapidocr"
"""In place of a table of boxes: its detector finds them."""
Places = Callable[[str, Tensor], list[NamedRegion]]
"""The regions of an image, by its key and its pixels."""


@dataclass(frozen=True, slots=True)
class Crops:
    """Images that are read together.

    Attributes:
        keys: of the image of each.
        images: (h, w, 3) uint8 pixels of each.
        truths: what stands in each, empty where that is not known.
        names: of the boxes; empty where images are read as they are.
        shares: (n, 4) boxes in shares of their images; none without.
        boxes: (n, 4) the same in pixels.
        whole: the image that all are cut out of, where it is looked at besides.
    """

    keys: list[str]
    images: list[np.ndarray]
    truths: list[str]
    names: list[str] = field(default_factory=list)
    shares: Float[np.ndarray, "n 4"] = field(default_factory=lambda: np.zeros((0, 4)))
    boxes: Float[np.ndarray, "n 4"] = field(default_factory=lambda: np.zeros((0, 4)))
    whole: np.ndarray | None = None


def open_places(regions: str | Path, *, unit: Unit | None) -> tuple[RegionFiles | None, Places]:
    """Where boxes come from: a file, or a detector, which has none.

    Raises:
        InputError: neither, or see ``data.region_files``.
    """
    if str(regions) == FOUND_BY and not local(regions).exists():
        return None, _find
    files = open_regions(regions, unit=unit)
    return files, lambda key, image: files.of(key, size=(image.shape[1], image.shape[2]))


def _find(key: str, image: Tensor) -> list[NamedRegion]:
    height, width = image.shape[1:]
    return [
        NamedRegion(str(number), box / (width, height, width, height))
        for number, box in enumerate(find_lines(image), start=1)
    ]


def crops_of(
    rows: Sequence[Row],
    images: Sequence[UInt8[Tensor, "3 h w"]],
    places: Places | None,
    *,
    bad: BadRows,
    apart: bool,
) -> Iterator[Crops]:
    """Images as they are, or the crops of their boxes; those of each image apart where it is looked at as a whole.

    Args:
        rows: of the images.
        images: their pixels.
        places: gives boxes; None reads images as they are.
        bad: told of images whose boxes do not fit.
        apart: whether whole images are looked at besides.
    """
    if places is None:
        truths = [next(iter(row.texts), "") for row in rows]
        yield Crops([row.key for row in rows], [_array(image) for image in images], truths)
        return
    found = list[tuple[Row, Tensor, list[NamedRegion]]]()
    for row, image in zip(rows, images, strict=True):
        try:
            found.append((row, image, places(row.key, image)))
        except InputError as error:
            bad.add(row.key, str(error))
    for some in [[one] for one in found] if apart else [found]:
        each = [(row, image, region) for row, image, regions in some for region in regions]
        if each:
            shares = np.stack([region.box for _, _, region in each])
            sides = np.array([[image.shape[2], image.shape[1]] * 2 for _, image, _ in each])
            yield Crops(
                [row.key for row, _, _ in each],
                [_array(cut_box(image, region.box.tolist())) for _, image, region in each],
                [region.text for _, _, region in each],
                [region.name for _, _, region in each],
                shares,
                shares * sides,
                _array(some[0][1]) if apart else None,
            )


def _array(image: UInt8[Tensor, "3 h w"]) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()
