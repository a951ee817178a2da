"""``tether embed``: a source as vectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.ray_cluster import import_ray
from tether.data import open_source
from tether.data.paths import here, is_url
from tether.models.encoders.truncated import narrowed
from tether.models.precision import chosen_precision
from tether.tasks.retrieve.embed import EmbeddedFile
from tether.tasks.retrieve.embed import embed as to_file
from tether.tasks.retrieve.embed_remote import embed_to_url
from tether.tasks.retrieve.ray_workers import RayWorkers
from tether.workflows.models import Data, Model, Progress, opened

ENGINES = ("local", "ray")


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
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    strict: bool = False,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> EmbeddedFile:
    """Turn the images of a source into vectors; a run that was stopped resumes.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        out: a ``.parquet`` file, or a folder for parts; or the URL of one in an object store, where a folder is whole
            once ``manifest.json`` is there.
        batch_size: images in one forward.
        part_rows: rows of one part: the most that a kill costs.
        thumbnail: longest side of a JPEG kept beside each vector, for galleries; None for none.
        precision: of the forward; ``auto`` takes bfloat16 where it is faster and gives the same vectors.
        dims: keep the first so many numbers of each vector; None keeps all.
        workers: threads that decode ahead (None: one); with ``ray``, processes that embed (None: as many as the cluster
            has room for).
        engine: ``local``, or ``ray`` for workers of a Ray cluster, which leave the same file; what one engine began the
            other finishes. A script that uses it needs no ``if __name__ == "__main__"``.
        address: of a running Ray cluster, ``host:port`` or ``auto``; None takes the one that ``ray.init`` connected to
            or ``$RAY_ADDRESS`` names, or starts one here that ends with the call.
        strict: stop at the first bad row instead of skipping it.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.

    Raises:
        InputError: no such model, source, engine or cluster, fewer workers than one, ``out`` holds something else, or
            there is no good row.
        MissingExtraError: ``ray`` without Ray.

    Example:
        >>> import tempfile, tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = tether.embed("scenes:rows=5,size=64", model=model, out=f"{folder}/scenes.parquet")
        ...     found.unit().shape
        (5, 64)
    """
    if engine not in ENGINES:
        raise InputError(f"engine: expected {' or '.join(ENGINES)}, got {engine!r:.100}")
    if address is not None and engine != "ray":
        raise InputError(f"address: {address!r:.100} is of a Ray cluster, but the engine is {engine}")
    ray = RayWorkers(workers, address=address, device=device) if engine == "ray" else None
    if ray is not None:
        import_ray()
    rows = open_source(source, where="SOURCE")
    encoder, name = opened(model, device="cpu" if ray else device, random_weights=random_weights)
    encoder = narrowed(encoder, dims)
    place = here(str(out))
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "part_rows": part_rows,
        "thumbnail": thumbnail,
        "precision": chosen_precision(encoder, precision),
        "workers": 1 if workers is None else workers,
        "ray": ray,
        "strict": strict,
        "on_progress": on_progress,
    }
    if is_url(place):
        return embed_to_url(rows, model=encoder, model_name=name, out=place, **settings)
    return to_file(rows, model=encoder, model_name=name, out=local(place), **settings)
