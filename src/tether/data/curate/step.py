"""What a step of curation promises on top of ``core.protocols.Curator``: a state that can be saved, and a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa

PAIR_SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("text", pa.string())])
"""What every step sees: one row for each (picture, caption) pair; a picture without captions has one null text."""

State = Mapping[str, np.ndarray | int | float | str]


@runtime_checkable
class CurateStep(Protocol):
    """A curator that can take its place in a recipe.

    Attributes:
        refusal: why a row gets probability 0, for the list of what was dropped.
        settings: constructor keywords as plain values, for the manifest and its digest.
    """

    refusal: str

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        ...

    def empty(self) -> Self:
        """The same settings without any counts."""
        ...

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Count one batch of pairs (``PAIR_SCHEMA``)."""
        ...

    def merge(self, other: Self) -> Self:
        """Add the counts of another shard."""
        ...

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        """(n,) float64 probability to keep each pair."""
        ...

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Counts as arrays and plain values that ``load_state_dict`` takes."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Take over the counts of another instance of the same settings."""
        ...

    def report(self) -> dict[str, Any]:
        """What was counted, as plain values for the manifest."""
        ...
