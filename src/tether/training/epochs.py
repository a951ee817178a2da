"""How long a run is: steps, or passes over its data."""

from __future__ import annotations

from tether.core.protocols import Source
from tether.data.shuffle import reason_against
from tether.training.config import RunConfig

MANY_EPOCHS = 30
"""Passes from which a run is likely to learn its pairs by heart."""


def with_steps(config: RunConfig) -> RunConfig:
    """The same run with its length in steps, where it is given in epochs.

    One epoch shows every image once, with one of its captions. Rows that do not fill a batch are left out of an epoch.

    Raises:
        InputError: the data cannot be opened.
    """
    if config.epochs is None:
        return config
    from tether.data import open_source

    need_image = config.contents.get("images") is not False
    rows = usable_rows(open_source(config.data, where="data"), need_image=need_image)
    steps = max(1, round(config.epochs * steps_per_epoch(config, rows)))
    return config.model_copy(update={"steps": steps, "epochs": None})


def steps_per_epoch(config: RunConfig, rows: int) -> float:
    """Optimiser steps in one pass over so many rows."""
    return max(1, rows // config.batch_size) / config.accumulate


def usable_rows(source: Source, *, need_image: bool = True) -> int:
    """Rows with a caption, and with an image if there must be one; the source is read once."""
    rows = (row for block in source.blocks() for row in source.read(block))
    return sum(reason_against(row, need_text=True, need_image=need_image) is None for row in rows)
