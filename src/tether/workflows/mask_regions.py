"""PNG files of class numbers as a table of regions, which recipes that learn from masks take."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from tether.core.errors import InputError
from tether.core.masks import NO_CLASS
from tether.core.ranges import Count, checked
from tether.core.types import Row
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.features.parquet import write_groups
from tether.data.image_file import image_bytes
from tether.data.in_order import originals
from tether.data.mask_files import LabelFolder
from tether.tasks.classify.prompts import classes_of
from tether.workflows.models import Data

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.int32()))),
        ("phrases", pa.list_(pa.string())),
        ("masks", pa.binary()),
    ]
)
"""Boxes are x0, y0, x1, y1 in pixels; the value k + 1 of a mask is region k."""


@checked
def mask_regions(
    source: Data,
    *,
    labels: str | Path,
    classes: str | Path | Sequence[str],
    out: str | Path,
    least: Count = 16,
    no_class: int = NO_CLASS,
) -> int:
    """Write a Parquet file in which each class of an image is a region, with a box and a mask.

    Args:
        source: what ``data.open_source`` takes; images in which the labels show no class are left out.
        labels: folder of PNG files with true class numbers, as ``tether.segment`` takes it.
        classes: their names in the order of the numbers: with commas between them, a text file, or a list.
        out: the file, with the columns of ``SCHEMA``. Images that have no caption get the names of their classes.
        least: pixels of a class below which it is no region of an image.
        no_class: the value of labels' pixels that have no class; classes are counted without it.

    Returns:
        How many images were written.

    Raises:
        InputError: no image has a label with a class, or one does not fit its image or the classes.

    Example:
        >>> import tether
        >>> from tether.workflows.mask_regions import mask_regions
        >>> scenes = "scenes:rows=3,size=64"
        >>> _ = tether.segment(scenes, "circle,star", model=tether.load("tiny", random_weights=True), out="truth")
        >>> mask_regions(scenes, labels="truth", classes="circle,star", out="scenes.parquet")
        3
    """
    rows, names = open_source(source, where="source"), classes_of(classes)
    folder, keys, written = LabelFolder(labels, names, no_class=no_class), list[str](), 0
    bad = BadRows.anew(rows.name, path=None, strict=False)

    def tables() -> Iterator[pa.Table]:
        nonlocal written
        for some, images in originals(rows, bad=bad):
            keys.extend(row.key for row in some)
            sizes = [(image.shape[1], image.shape[2]) for image in images]
            truths = [folder.read(row.key, size=size) for row, size in zip(some, sizes, strict=True)]
            found = [
                {"key": row.key, "image": _bytes(row), **_regions(truth, names, row=row, least=least)}
                for row, truth in zip(some, truths, strict=True)
                if truth is not None and (np.bincount(truth.ravel())[: len(names)] >= least).any()
            ]
            written += len(found)
            yield pa.Table.from_pylist(found, schema=SCHEMA)
        if not keys:
            raise InputError(f"{rows.name}: {bad.nothing_good()}")
        if not written:
            raise folder.nothing_for(keys)

    write_groups(tables(), Path(out), schema=SCHEMA)
    return written


def _regions(truth: UInt8[np.ndarray, "h w"], names: Sequence[str], *, row: Row, least: int) -> dict[str, object]:
    """Caption, boxes, phrases and masks of an image."""
    masks, boxes, phrases = np.zeros_like(truth), [], []
    for number, name in enumerate(names):
        inside = truth == number
        if inside.sum() < least:
            continue
        y, x = np.nonzero(inside)
        boxes.append([int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1])
        phrases.append(name)
        masks[inside] = len(phrases)
    caption = row.texts[0] if row.texts else ", ".join(phrases)
    return {"caption": caption, "boxes": boxes, "phrases": phrases, "masks": _png(masks)}


def _bytes(row: Row) -> bytes:
    image = row.image
    if isinstance(image, bytes):
        return image
    assert image is not None  # `originals` refuses such rows
    return _png(image) if isinstance(image, np.ndarray) else image_bytes(image, name=row.key)


def _png(values: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
