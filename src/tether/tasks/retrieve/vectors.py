"""Vectors of the rows of one part, made here or by a worker elsewhere."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import Row
from tether.data.features.making import Refuse
from tether.data.images import decode
from tether.models.embed import Precision, encode_images
from tether.tasks.retrieve import shards
from tether.tasks.retrieve.shards import Origin

THUMBNAIL_QUALITY = 82  # of JPEG


class Vectors:
    """Rows of one part with the vectors of their images.

    Attributes:
        items: the row, without its image unless that is a path, and its vector and thumbnail.
    """

    def __init__(
        self, model: DualEncoder, *, origin: Origin, images: Path, thumbnail: int | None, precision: Precision
    ) -> None:
        """Begin without a row; ``images`` is the folder that paths are relative to."""
        self._model, self._origin, self._images, self._precision = model, origin, images, precision
        self._thumbnail = thumbnail
        self.items: list[tuple[Row, tuple[np.ndarray, bytes | None]]] = []

    def add(self, rows: list[Row], pixels: Tensor, *, refuse: Refuse) -> None:
        """Embed the next rows; one whose vector is not finite is refused."""
        vectors = encode_images(self._model, [pixels], precision=self._precision, not_finite="nan")
        for row, vector in zip(rows, vectors, strict=True):
            if torch.isnan(vector).any():
                refuse(row.key, "its embedding is not finite (NaN or infinity)")
                continue
            small = None if self._thumbnail is None else make_thumbnail(row, side=self._thumbnail)
            kept = row if isinstance(row.image, Path) else replace(row, image=None)
            self.items.append((kept, (vector.numpy(), small)))

    def table(self) -> pa.Table:
        """All rows so far, in order."""
        return shards.to_table(
            [row for row, _ in self.items],
            vectors=np.array([vector for _, (vector, _) in self.items], np.float32).reshape(-1, self._model.dim),
            thumbnails=None if self._thumbnail is None else [small for _, (_, small) in self.items],
            origin=self._origin,
            folder=self._images,
        )


@dataclass
class VectorsThere:
    """Makes vectors on a worker.

    Attributes:
        model: embeds; it travels as it is.
        settings: those of ``Vectors``.
        device: that it is put on there.
    """

    model: DualEncoder
    settings: dict[str, Any]
    device: str

    def begin(self) -> None:
        """Put the model where it computes."""
        if isinstance(self.model, torch.nn.Module):
            self.model.to(self.device)

    def maker(self) -> Vectors:
        """For one part."""
        return Vectors(self.model, **self.settings)


def make_thumbnail(row: Row, *, side: int) -> bytes | None:
    """The row's image as a JPEG whose longest side has at most ``side`` pixels; None without an image."""
    from PIL import Image

    if row.image is None:
        return None
    pixels = Image.fromarray(decode(row.image, name=row.key).permute(1, 2, 0).contiguous().numpy())
    pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
