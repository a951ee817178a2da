"""A model and a source as a person gives them: by name, or opened already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tether.core.geometry import check_finite
from tether.core.protocols import DualEncoder, Source
from tether.models.load import load

Model = DualEncoder | str | Path
Data = Source | str | Path | Mapping[str, Any] | Sequence[Any]
"""What ``data.open_source`` takes."""
Progress = Callable[[int, int | None], None]
OnStage = Callable[[str, int, int | None], None]
"""Is told what is read beside the images that were asked about: its name, rows done and, where it is known, in all."""


def opened(model: Model, *, device: str = "auto", random_weights: bool = False) -> tuple[DualEncoder, str]:
    """The model and what it is called; one that is given as a module stays on its device.

    Raises:
        InputError: no such model, weights that are not finite, or a module of another library.
    """
    if isinstance(model, DualEncoder):
        return model, type(model).__name__
    loaded = cast(DualEncoder, load(model, device=device, random_weights=random_weights))
    check_finite(loaded, where=str(model))
    return loaded, str(model)


def progress_of(on_stage: OnStage | None, stage: str, *, source: Source, limit: int | None = None) -> Progress | None:
    """What is told how far a stage is that reads a source, at most ``limit`` rows of it."""
    if on_stage is None:
        return None
    return with_total(lambda done, total: on_stage(stage, done, total), source, limit=limit)


def with_total(on_progress: Progress | None, source: Source, *, limit: int | None = None) -> Progress | None:
    """The same, told how many rows there are in all where the source knows it, at most ``limit``."""
    if on_progress is None:
        return None
    sizes = [block.rows for block in source.blocks()]
    known = [*([] if None in sizes else [sum(filter(None, sizes))]), *([] if limit is None else [limit])]
    return lambda done, _: on_progress(done, min(known, default=None))
