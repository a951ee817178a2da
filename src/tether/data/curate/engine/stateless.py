"""What steps that count nothing share, and how every step takes a column of its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import pyarrow as pa

from tether.core.errors import InputError
from tether.data.curate.engine.step import Counts, State, column_of
from tether.data.settings import KeptSettings


class Stateless(KeptSettings, ABC):
    """A curator whose ``keep`` is a function of the rows alone: nothing to count, nothing to save."""

    refusal: str
    columns: tuple[str, ...] = ()
    counts: Counts = "nothing"

    @abstractmethod
    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        """(n,) float64 probability to keep each pair."""

    def empty(self) -> Self:
        """Itself: there is nothing that could be shared by mistake."""
        return self

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Nothing is counted."""
        return self

    def merge(self, other: Self) -> Self:
        """Nothing is added."""
        return self

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing is loaded."""
        if state:
            raise InputError(f"a step that counts nothing was given counts: {', '.join(state)}")

    def report(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def check_counted(rows: object) -> None:
    """Refuse to decide before the pool was counted."""
    if not rows:
        raise InputError("nothing was counted yet; call partial_fit over the whole pool first")


def texts_of(rows: pa.RecordBatch) -> pa.StringArray:
    """The captions."""
    return column_of(rows, "text")


def images_of(rows: pa.RecordBatch) -> pa.BinaryArray:
    """The images' encoded bytes, null where there is none."""
    column = column_of(rows, "image")
    if pa.types.is_null(column.type):
        return column.cast(pa.binary())
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InputError(f"column 'image': expected encoded images (binary), got {column.type}")
    return column
