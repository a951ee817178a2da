"""What locked towers give for a source: computed once, kept in the cache, and read by whatever is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.atomic_io import cache_dir
from tether.core.hash_rng import hash_int
from tether.core.locks import locked
from tether.core.model_digest import model_digest
from tether.core.protocols import Source
from tether.core.types import Row
from tether.data.features import parquet
from tether.data.features.parts import Refuse, make_parts
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_images, encode_texts

PART_ROWS = 64
"""Images of one part: the most that a kill costs."""
_BATCH = 32


@dataclass(frozen=True, slots=True)
class TowerFeatures:
    """Rows of both towers for the pairs of a source.

    Attributes:
        keys: of the n images, in the source's order.
        image: (n, w) float32 rows of the image tower.
        text: (m, v) float32 rows of the text tower.
        owner: (m,) the image that each caption belongs to.
    """

    keys: list[str]
    image: Float[Tensor, "n w"]
    text: Float[Tensor, "m v"]
    owner: Int[Tensor, " m"]


def tower_features(
    model: ComposedEncoder,
    source: Source,
    *,
    bad_rows: Path,
    workers: int = 0,
    strict: bool = False,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> TowerFeatures:
    """The rows of a source through the two towers of a model, each image and each caption once.

    What was computed before, for these towers and this source, is read from the cache; a run that was killed resumes.

    Args:
        model: its towers are asked in evaluation mode; its maps are not.
        source: where rows come from; those without a caption are left out.
        bad_rows: JSON-lines log of rows without features, written anew.
        workers: threads that decode ahead.
        strict: stop at the first bad row.
        on_progress: called with images done and, where the source knows, images in all.

    Raises:
        InputError: not one good row, or a bad row under ``strict``.
    """
    towers = model.parts.image, model.parts.text
    digests = " ".join(model_digest(tower) for tower in towers)
    own = f"{hash_int(f'{digests} {source.name} {source.version}'):016x}"
    place = cache_dir() / "features" / own
    was = model.training
    model.eval()
    try:
        with locked(place, purpose="features of locked towers"):
            parts, _ = make_parts(
                source,
                folder=place,
                maker=lambda number, count: _Rows(model),
                image_spec=model.image_spec,
                part_rows=PART_ROWS,
                bad_rows=bad_rows,
                batch_size=_BATCH,
                workers=workers,
                strict=strict,
                on_progress=on_progress,
            )
            tables = [parquet.read(part.path) for part in parts]
    finally:
        model.train(was)
    return _read(pa.concat_tables(tables))


class _Rows:
    """The rows of one part through the towers."""

    def __init__(self, model: ComposedEncoder) -> None:
        self._model = model
        self._keys: list[str] = []
        self._texts: list[list[str]] = []
        self._image: list[Tensor] = []

    def add(self, rows: list[Row], pixels: Tensor, *, refuse: Refuse) -> None:
        found = encode_images(self._model.before_maps(), [pixels], not_finite="nan")
        for row, features in zip(rows, found, strict=True):
            texts = [text for text in row.texts if text.strip()]
            if not texts:
                refuse(row.key, "no caption")
            elif not torch.isfinite(features).all():
                refuse(row.key, "its features are not finite")
            else:
                self._keys.append(row.key)
                self._texts.append(texts)
                self._image.append(features)

    def table(self) -> pa.Table:
        captions = [text for texts in self._texts for text in texts]
        text = encode_texts(self._model.before_maps(), captions, not_finite="nan")
        ends = np.cumsum([0, *map(len, self._texts)])
        width = self._model.parts.image.width
        image = torch.stack(self._image) if self._image else torch.empty(0, width)
        return pa.table(
            {
                "key": pa.array(self._keys, pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(image.flatten().numpy()), width),
                "texts": pa.array(self._texts, pa.list_(pa.string())),
                "text_embedding": pa.array([text[a:b].numpy().tobytes() for a, b in pairwise(ends)], pa.binary()),
            }
        )


def _read(table: pa.Table) -> TowerFeatures:
    texts: list[list[str]] = table.column("texts").to_pylist()
    image = np.stack(table.column("embedding").to_numpy(zero_copy_only=False))
    data = b"".join(table.column("text_embedding").to_pylist())
    text = np.frombuffer(data, dtype=np.float32).reshape(sum(map(len, texts)), -1).copy()
    owner = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([len(some) for some in texts]))
    return TowerFeatures(
        table.column("key").to_pylist(), torch.from_numpy(image).float(), torch.from_numpy(text), owner
    )
