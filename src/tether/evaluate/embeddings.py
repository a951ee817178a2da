"""A source seen through a model: the embeddings, captions and labels that every measure and image is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry, check_finite, geometry_of
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.core.types import Row
from tether.data.in_order import ordered
from tether.data.labelled import sorted_names
from tether.models.embed import encode_images, encode_texts

LABEL = "label"
"""The column that holds a row's class when none is named."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Every row of a source with its embeddings, as the model gives them (not normalised), on the CPU.

    Attributes:
        keys: of the n rows.
        captions: the m texts, those of the first row first.
        labels: (n,) class of each row as text, or empty when the rows have none.
        image: (n, d) embeddings.
        text: (m, d) embeddings.
        text_to_image: (m,) row of the image that each text belongs to.
        thumbnails: (n, 3, s, s) uint8, or None when none were asked for.
        geometry: what the model compares embeddings with.
    """

    keys: tuple[str, ...]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    image: Float[Tensor, "n d"]
    text: Float[Tensor, "m d"]
    text_to_image: Int[Tensor, " m"]
    thumbnails: UInt8[Tensor, "n 3 s s"] | None = None
    geometry: Geometry = COSINE

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted; numbers by value."""
        return sorted_names(self.labels)

    @property
    def label_numbers(self) -> Int[Tensor, " n"]:
        """The place of each row's label among the classes."""
        number = {name: at for at, name in enumerate(self.classes)}
        return torch.tensor([number[name] for name in self.labels], dtype=torch.int64)

    @property
    def first_captions(self) -> tuple[int, ...]:
        """For each row the place of its first caption, or -1."""
        first = dict.fromkeys(range(len(self.image)), -1)
        for at, row in reversed(list(enumerate(self.text_to_image.tolist()))):
            first[row] = at
        return tuple(first.values())


@checked
def embed_source(
    model: DualEncoder,
    source: Source,
    *,
    batch_size: Count = 256,
    limit: int | None = None,
    label: str | None = None,
    thumbnail: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    workers: int = 0,
    strict: bool = False,
    on_bad: Path | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Embedded:
    """Embed every good row of a source once, in order.

    Args:
        model: any model that ``tether.load`` gives.
        source: any source that ``data.open_source`` gives.
        batch_size: rows in one forward.
        limit: stop after this many rows.
        label: column of the class; None takes ``label`` where rows have it.
        thumbnail: side in pixels of the small images to keep, or None.
        precision: ``bfloat16`` runs under autocast.
        workers: threads that decode images.
        strict: stop at the first bad row instead of skipping it.
        on_bad: JSON-lines file that names the rows skipped.
        on_progress: called with (images done, None).
    """
    check_finite(model)
    rows: list[Row] = []
    small: list[Tensor] = []

    def pixels() -> Iterator[Tensor]:
        for some, images in ordered(
            source,
            image_spec=model.image_spec,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            on_bad=on_bad,
            limit=limit,
        ):
            rows.extend(some)
            if thumbnail is not None:
                small.append(shrink(images, side=thumbnail))
            yield images

    try:
        if thumbnail is None and (rows_of := getattr(model, "rows_of", None)):  # a cached encoder
            parts = []
            for some, found in rows_of(
                source,
                batch_size=batch_size,
                workers=workers,
                strict=strict,
                on_bad=on_bad,
                limit=limit,
                on_progress=on_progress,
            ):
                rows.extend(some)
                parts.append(found)
            image = torch.cat(parts)
        else:
            image = encode_images(model, pixels(), precision=precision, on_progress=on_progress)
        captions = [text for row in rows for text in row.texts]
        text = encode_texts(model, captions, batch_size=batch_size, precision=precision)
    except InputError as error:
        prefix = f"{source.name}: "
        raise type(error)(str(error) if str(error).startswith(prefix) else prefix + str(error)) from error
    owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.texts) for row in rows]))
    return Embedded(
        keys=tuple(row.key for row in rows),
        captions=tuple(captions),
        labels=_labels(rows, column=label, where=source.name),
        image=image,
        text=text,
        text_to_image=owner,
        thumbnails=torch.cat(small) if small else None,
        geometry=geometry_of(model).detached(),
    )


def shrink(pixels: UInt8[Tensor, "b 3 h w"], *, side: int) -> UInt8[Tensor, "b 3 s s"]:
    """Images at ``side`` pixels squared, antialiased; smaller ones keep the square they have."""
    if pixels.shape[-2] == pixels.shape[-1] <= side:
        return pixels
    resized = F.interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _labels(rows: list[Row], *, column: str | None, where: str) -> tuple[str, ...]:
    name = column or LABEL
    without = [row for row in rows if row.meta.get(name) is None]
    if len(without) == len(rows) and column is None:
        return ()
    if without:
        known = ", ".join(sorted(map(str, without[0].meta))) or "none"
        raise InputError(
            f"{where}: {len(without)} of {len(rows)} rows have no {name!r}, the first is {without[0].key!r}; "
            f"its columns: {known}"
        )
    return tuple(str(row.meta[name]) for row in rows)
