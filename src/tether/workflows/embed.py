"""``tether embed``: a source as vectors on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from tether.data import open_source
from tether.models.precision import chosen_precision
from tether.tasks.retrieve.embed import embed as to_file
from tether.workflows.models import Model, opened


@dataclass(frozen=True)
class Vectors:
    """The vectors of a source on disk.

    Attributes:
        path: Parquet file.
        rows: images in it.
        bad: images that could not be read; named beside the file.
    """

    path: Path
    rows: int
    bad: int

    def keys(self) -> list[str]:
        """The rows' keys, in order."""
        return pq.read_table(self.path, columns=["key"]).column("key").to_pylist()

    def unit(self) -> Float[np.ndarray, "n d"]:
        """(n, d) float32 rows of length 1."""
        column = pq.read_table(self.path, columns=["embedding"]).column("embedding").combine_chunks()
        rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _repr_html_(self) -> str:
        return f"<p>{self.rows:,} vectors, {self.bad:,} images that could not be read</p>"


def embed(
    source: str | Path | Mapping[str, Any],
    *,
    model: Model,
    out: str | Path,
    batch_size: int = 64,
    thumbnail: int | None = None,
    precision: str = "auto",
    device: str = "auto",
) -> Vectors:
    """Turn the images of a source into vectors; a run that was stopped resumes.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        out: a ``.parquet`` file.
        batch_size: images in one forward.
        thumbnail: longest side of a JPEG kept beside each vector, for galleries; None for none.
        precision: of the forward; ``auto`` takes bfloat16 where it is faster and gives the same vectors.
        device: where to load the model.

    Example:
        >>> import tempfile, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = tether.embed("scenes:rows=5,size=64", model=model, out=f"{folder}/scenes.parquet")
        ...     found.unit().shape
        (5, 64)
    """
    encoder, name = opened(model, device=device)
    rows = open_source(source, where="source")
    done = to_file(
        rows,
        model=encoder,
        model_name=name,
        out=Path(out),
        batch_size=batch_size,
        thumbnail=thumbnail,
        precision=chosen_precision(encoder, precision),
    )
    return Vectors(Path(out), done.rows, done.bad)
