"""``tether embed``: a source as vectors on disk."""

from __future__ import annotations

from pathlib import Path

from tether.core.atomic_io import local
from tether.data import open_source
from tether.models.narrow import narrowed
from tether.models.precision import chosen_precision
from tether.tasks.retrieve.embed import EmbeddedFile
from tether.tasks.retrieve.embed import embed as to_file
from tether.workflows.models import Data, Model, Progress, opened


def embed(
    source: Data,
    *,
    model: Model,
    out: str | Path,
    batch_size: int = 64,
    part_rows: int = 256,
    thumbnail: int | None = None,
    precision: str = "auto",
    dims: int | None = None,
    workers: int = 1,
    strict: bool = False,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> EmbeddedFile:
    """Turn the images of a source into vectors; a run that was stopped resumes.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        out: a ``.parquet`` file, or a folder for parts.
        batch_size: images in one forward.
        part_rows: rows of one part: the most that a kill costs.
        thumbnail: longest side of a JPEG kept beside each vector, for galleries; None for none.
        precision: of the forward; ``auto`` takes bfloat16 where it is faster and gives the same vectors.
        dims: keep the first so many numbers of each vector; None keeps all.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.

    Raises:
        InputError: no such model or source, ``out`` holds something else, or there is no good row.

    Example:
        >>> import tempfile, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = tether.embed("scenes:rows=5,size=64", model=model, out=f"{folder}/scenes.parquet")
        ...     found.unit().shape
        (5, 64)
    """
    rows = open_source(source, where="SOURCE")
    encoder, name = opened(model, device=device, random_weights=random_weights)
    encoder = narrowed(encoder, dims)
    return to_file(
        rows,
        model=encoder,
        model_name=name,
        out=local(out),
        batch_size=batch_size,
        part_rows=part_rows,
        thumbnail=thumbnail,
        precision=chosen_precision(encoder, precision),
        workers=workers,
        strict=strict,
        on_progress=on_progress,
    )
