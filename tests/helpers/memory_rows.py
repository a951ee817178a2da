"""Small data in memory: coloured squares of three classes, with captions, and captions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tether.core.types import Block, Row

COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}


class MemoryRows:
    """Rows that are given; a ``core.protocols.Source``."""

    def __init__(self, rows: Sequence[Row], *, name: str = "memory") -> None:
        self.rows, self.name, self.version = list(rows), name, f"{len(rows)} rows"

    def blocks(self) -> Sequence[Block]:
        return [Block("all", len(self.rows))]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        yield from self.rows[start:]


def squares(count: int = 36, *, size: int = 32, seed: int = 0) -> MemoryRows:
    """Labelled images with a caption each."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        name = list(COLOURS)[number % len(COLOURS)]
        noise = rng.integers(-30, 30, (size, size, 3))
        image = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        text = f"a {'small' if number % 2 else 'large'} {name} square on a wall"
        rows.append(Row(f"row {number}", image, (text,), {"label": name, "size": "small" if number % 2 else "large"}))
    return MemoryRows(rows, name=f"squares {seed}")


def boxed(count: int = 36) -> MemoryRows:
    """Squares with two regions each, in shares, and their phrases."""
    rows = squares(count).rows
    halves = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
    more = [{"boxes": halves, "phrases": [f"{row.meta['label']} paint", "a wall"]} for row in rows]
    given = zip(rows, more, strict=True)
    return MemoryRows([replace(row, meta={**row.meta, **extra}) for row, extra in given], name="boxed")


def masked(count: int = 36) -> MemoryRows:
    """The same with a mask of each region."""
    rows = boxed(count).rows
    masks = [np.full(row.image.shape[:2], 2, np.uint8) for row in rows]
    for mask in masks:
        mask[:, : mask.shape[1] // 2] = 1
    given = zip(rows, masks, strict=True)
    return MemoryRows([replace(row, meta={**row.meta, "masks": mask}) for row, mask in given], name="masked")


def damaged(count: int = 36, *, seed: int = 0) -> MemoryRows:
    """Squares of which every other one has a dark stripe, with its mask; those of the others are black."""
    rows = []
    for number, row in enumerate(squares(count, seed=seed).rows):
        image, mask = row.image.copy(), np.zeros(row.image.shape[:2], np.uint8)
        if number % 2:
            mask[4 + number % 20 :][:6] = 255
            image[mask > 0] //= 4
        rows.append(replace(row, image=image, texts=(), meta={"mask": mask}))
    return MemoryRows(rows, name="damaged")


def captions(count: int = 36) -> MemoryRows:
    """The captions of squares, without images."""
    rows = [
        replace(row, image=None, texts=(f"{row.texts[0]} number {number}",), meta={})
        for number, row in enumerate(squares(count).rows)
    ]
    return MemoryRows(rows, name="captions")


def without_words(source: MemoryRows) -> MemoryRows:
    """The same images with no words beside them, and a number that rises with their darkness."""
    rows = [replace(row, texts=(), meta={"amount": -float(np.mean(row.image))}) for row in source.rows]
    return MemoryRows(rows, name="images alone")
