"""One table for every set of social norms: texts by field, a label, a group, and who judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from tether.core.errors import InputError
from tether.core.printable import quoted

SHOWN = 10
SPLITS = ("train", "dev", "test")


def rows_said(rows: Sequence[int]) -> str:
    """Row numbers as an error names them, the first ten.

    Examples:
        >>> rows_said([2]), rows_said([2, 5])
        ('row 2', 'rows 2, 5')
    """
    some = ", ".join(map(str, rows[:SHOWN]))
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {some}{more}"


T = TypeVar("T")


class Loaded(list[T]):
    """What a loader read, a list, with what a reader of a report must know of the files.

    Attributes:
        remarks: one sentence each.
    """

    def __init__(self, items: Iterable[T] = (), *, remarks: tuple[str, ...] = ()) -> None:
        """Hold the items."""
        super().__init__(items)
        self.remarks = remarks


@dataclass(frozen=True)
class NormTable:
    """Judgements of people, or of a language model, that a head learns from and is measured on.

    Attributes:
        name: of the file, for errors and reports.
        fields: texts by the field's name, one a row.
        labels: one of ``classes`` a row, or the empty string where nobody judged.
        classes: all labels there may be, in order.
        groups: what must not be on two sides of a split, one a row: a situation, a dialogue, a contract.
        rows: where each row stands in its file, counted as a spreadsheet counts: the header is row 1.
        judged: who judged, for reports; loaders put who judged the set as published, which a file need not be.
        ids: of the rows where the file has any, else none; no two are equal.
        facets: by which else figures are told apart, one value a row: category, language.
        numbers: columns of numbers that a head may read beside the texts.
        split: train, dev or test, where the file says so.
        optional: fields that may be empty, such as the turns before the first.
        remarks: what a reader of the report must know of this file.

    Raises:
        InputError: nothing inside, columns of other lengths, an unknown label, an empty text that is needed, or an id
            that comes twice; with the row numbers.

    Example:
        >>> from tether.data.sets.norms import NormTable
        >>> table = NormTable(
        ...     "mine.csv", {"situation": ("in a lift", "in a choir")}, ("taboo", "expected"), ("taboo", "expected"),
        ...     groups=("lift", "choir"), rows=(2, 3), judged="one person",
        ... )
        >>> table.codes.tolist(), table.taken([1]).labels
        ([0, 1], ('expected',))
    """

    name: str
    fields: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    rows: tuple[int, ...]
    judged: str
    ids: tuple[str, ...] = ()
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    split: tuple[str, ...] | None = None
    optional: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check; see the class."""
        if not self.labels:
            raise InputError(f"{self.name}: no rows")
        columns: dict[str, Sequence[object] | np.ndarray] = {
            "groups": self.groups, "rows": self.rows, **self.fields, **self.facets, **self.numbers,
        }  # fmt: skip
        columns |= {"ids": self.ids} if self.ids else {}
        columns |= {"split": self.split} if self.split is not None else {}
        for name, column in columns.items():
            if len(column) != len(self.labels):
                raise InputError(f"{self.name}: {name}: expected {len(self.labels)} values, got {len(column)}")
        known = (*self.classes, "")
        self._refuse(lambda row: self.labels[row] not in known, self.labels, f"label: expected {self._names()}")
        if self.split is not None:
            told = self.split
            self._refuse(lambda row: told[row] not in SPLITS, told, f"split: expected {', '.join(SPLITS)}")
        for name, texts in self.fields.items():
            if name not in self.optional and (empty := [row for row in range(len(self)) if not texts[row].strip()]):
                raise InputError(f"{self.name}: {name}: no text in {self._said(empty)}")
        count = Counter(self.ids)
        self._refuse(lambda row: count[self.ids[row]] > 1, self.ids, "expected ids that differ") if self.ids else None

    def __len__(self) -> int:
        """How many rows."""
        return len(self.labels)

    @property
    def codes(self) -> Int[np.ndarray, " n"]:
        """The number of each row's label among the classes, -1 where nobody judged."""
        return np.array([self.classes.index(label) if label else -1 for label in self.labels])

    def judged_only(self) -> NormTable:
        """The rows that have a label.

        Raises:
            InputError: there are none.
        """
        kept = [row for row, label in enumerate(self.labels) if label]
        if not kept:
            raise InputError(f"{self.name}: no row has a label")
        return self if len(kept) == len(self) else self.taken(kept)

    def taken(self, rows: Iterable[int]) -> NormTable:
        """Some rows, in the order given."""
        some = [int(row) for row in rows]

        def of(column: Sequence[str]) -> tuple[str, ...]:
            return tuple(column[row] for row in some)

        return replace(
            self,
            fields={name: of(column) for name, column in self.fields.items()},
            labels=of(self.labels),
            groups=of(self.groups),
            rows=tuple(self.rows[row] for row in some),
            ids=of(self.ids) if self.ids else (),
            facets={name: of(column) for name, column in self.facets.items()},
            numbers={name: column[some] for name, column in self.numbers.items()},
            split=of(self.split) if self.split is not None else None,
        )

    def named(self, fields: Iterable[str]) -> tuple[str, ...]:
        """Names of fields, seen to be there.

        Raises:
            InputError: a field that this table has not.
        """
        found = tuple(fields)
        if odd := [name for name in found if name not in self.fields]:
            raise InputError(f"fields: expected some of {', '.join(self.fields)}, got {quoted(odd[0])}")
        if not found or len(set(found)) < len(found):
            raise InputError(f"fields: expected different ones of {', '.join(self.fields)}, got {list(found)}")
        return found

    def _refuse(self, wrong: object, column: Sequence[str], expected: str) -> None:
        assert callable(wrong)
        if odd := [row for row in range(len(self)) if wrong(row)]:
            raise InputError(f"{self.name}: {expected}, got {quoted(column[odd[0]])} in {self._said(odd)}")

    def _said(self, rows: Sequence[int]) -> str:
        return rows_said([self.rows[row] for row in rows])

    def _names(self) -> str:
        return ", ".join(self.classes)
