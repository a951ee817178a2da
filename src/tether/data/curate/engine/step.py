"""The four kinds of step of a recipe (they drop, rewrite or flag pairs, or add columns), and what steps share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa

from tether.core.errors import InputError
from tether.core.runtime_protocol import ByAttributes

PAIR_SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("text", pa.string())])
"""What every step sees: one row for each (image, caption) pair; an image without captions has one null text."""

FLAG_SCHEMA = pa.schema([pa.field("label", pa.string()), pa.field("score", pa.float64())])
"""What a flag step says of each pair: null, or a label and how sure it is; a score may stand without a label."""

IMAGE = "image"
"""Name, among a step's columns, of the image's encoded bytes (binary, null where the row has no image)."""

Counts = Literal["pool", "nothing"]
Gives = Literal["one", "several"]
State = Mapping[str, np.ndarray | int | float | str]


class RecipeStep(Protocol):
    """What all steps of a recipe have.

    A step is pickled to worker processes, so it holds settings and arrays; models and detectors are loaded at first
    use, once a process. Steps see batches of any size that end anywhere: what a step says of a pair depends on that
    pair alone (and on what was counted of the whole pool), with chance by a hash of the key. Key and text, like all
    columns, may hold anything: 1 MB of text, no letter, an empty string, null text, bytes that are no image.

    Attributes:
        settings: constructor keywords as plain JSON values, for the manifest and its digest; of a file or a model the
            name and the SHA-256 of what it holds.
        columns: what the batches have besides ``key`` and ``text``: ``image``, or any column of the pool, as it is
            typed there (of a source's rows: what ``meta`` holds; a column of nulls may have Arrow's null type). The
            engine refuses a pool that lacks one. Values are a row's own, the same for each of its captions.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it reads besides key and text; a class attribute will do."""
        ...


@runtime_checkable
class CurateStep(RecipeStep, Protocol, metaclass=ByAttributes):
    """A curator as a step of a recipe: it says with which probability each pair is kept.

    A step that counts nothing leaves ``partial_fit`` and ``merge`` without effect, has ``{}`` as its state, and is
    asked to ``keep`` in the same pass as its neighbours, exactly once for each pair that reaches it. A step that
    counts the pool first sees, in any order and split, all the pairs that the steps before left, and is asked to
    ``keep`` in the next pass, once; what is costly to compute is computed in ``partial_fit`` and kept in the state by
    a hash of the key.

    Attributes:
        refusal: why a pair gets probability 0, for the list of what was dropped.
        counts: ``pool`` when ``keep`` needs counts of all that earlier steps left, ``nothing`` when it does not.
    """

    refusal: str

    @property
    def counts(self) -> Counts:
        """What it counts before it may be asked; a class attribute will do."""
        ...

    def empty(self) -> Self:
        """The same settings without any counts."""
        ...

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Count one batch of pairs (``PAIR_SCHEMA`` and the step's columns)."""
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


@runtime_checkable
class RewriteStep(RecipeStep, Protocol, metaclass=ByAttributes):
    """Gives captions other words; later steps see them.

    Attributes:
        gives: ``one`` text for each caption, or ``several``, which only steps that follow all curators may.
    """

    @property
    def gives(self) -> Gives:
        """How many texts a caption may become; a class attribute will do."""
        ...

    def map(self, rows: pa.RecordBatch) -> pa.ListArray:
        """(n,) lists of strings, none null or empty: the texts that stand for each caption; [null] for a null text.

        Asked exactly once for each pair that reaches it. A list of several replaces the caption by all its texts, so
        it holds the caption itself where that shall stay.
        """
        ...


@runtime_checkable
class FlagStep(RecipeStep, Protocol, metaclass=ByAttributes):
    """Names pairs that a person should know of; none is dropped.

    Labels of kept pairs are counted in the manifest and listed in ``flagged/part-*.csv`` (key, text, step, label,
    score).
    """

    def flag(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """(n,) labels, null for a pair without one, and scores: ``FLAG_SCHEMA``. Asked exactly once for each pair."""
        ...


@runtime_checkable
class ColumnStep(RecipeStep, Protocol, metaclass=ByAttributes):
    """Writes columns beside the rows that are kept; it follows all curators and rewriters, and Parquet alone takes it.

    Attributes:
        adds: the fields of the columns; the engine refuses a pool that has one of these names.
    """

    @property
    def adds(self) -> pa.Schema:
        """Names and types; an attribute will do."""
        ...

    def columns_of(self, rows: pa.RecordBatch, texts: pa.ListArray) -> pa.RecordBatch:
        """(n,) values for n rows, with the schema ``adds``. Asked exactly once for each row.

        Args:
            rows: the columns that it reads.
            texts: the kept captions of each row, as they are written.
        """
        ...


def column_of(rows: pa.RecordBatch, name: str) -> pa.Array:
    """One column of a batch."""
    if name not in rows.schema.names:
        raise InputError(f"rows: expected a column {name!r}, got {', '.join(rows.schema.names)}")
    return rows.column(name)


class KeptSettings:
    """A part whose constructor keywords are attributes of the same names."""

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        found = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


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
