"""Of pairs that hold the same, one stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, UInt64

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.curate.engine.hashing import combined, hashed, row_keys
from tether.data.curate.engine.step import (
    IMAGE,
    Counts,
    KeptSettings,
    State,
    check_counted,
    column_of,
    images_of,
    texts_of,
)

TEXT = "text"
_NAMES = ("content", "claim")


class ExactDuplicates(KeptSettings):
    """Keeps one of all pairs that are equal in the columns compared: the one whose key has the smallest hash.

    With the text among the columns, pairs are compared; without it, rows are, so that an image keeps all captions of
    the row that stays and loses those of its copies. A pair that lacks one of the values (no caption, no image) is
    equal to none. Images are equal when their files are, byte for byte; ``near_duplicates`` finds the others.

    Memory: 16 bytes for each distinct pair while counting, about three times as much when the pieces are put together.
    """

    refusal = "an equal pair stays in its place"
    counts: Counts = "pool"

    @checked
    def __init__(self, *, of: str | Sequence[str] = (TEXT, IMAGE), text: Literal["exact", "folded"] = "exact") -> None:
        """Say what is compared.

        Args:
            of: ``text``, ``image`` or any other column of the pool, one or several; all must be equal.
            text: ``folded`` compares captions without regard to case, white space, punctuation and Unicode form.
        """
        self.of = (of,) if isinstance(of, str) else tuple(of)
        if not self.of or len(set(self.of)) < len(self.of):
            raise InputError(f"of: expected columns such as text and image, each once, got {list(self.of)}")
        if text == "folded" and TEXT not in self.of:
            raise InputError("text: folded needs the text among the columns compared")
        self.text: Literal["exact", "folded"] = text
        self.columns = tuple(name for name in self.of if name not in (TEXT, "key"))
        self._clear()

    def _clear(self) -> None:
        self.pairs = self.compared = 0
        self._content = self._claim = np.zeros(0, np.uint64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waits = 0

    def empty(self) -> Self:
        """The same settings without any counts."""
        return type(self)(of=self.of, text=self.text)

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Remember what one batch holds."""
        content, claim, whole = self._read(rows)
        self.pairs += rows.num_rows
        self.compared += int(whole.sum())
        self._add(content[whole], claim[whole])
        return self

    def merge(self, other: Self) -> Self:
        """Add what another shard holds."""
        if other.settings != self.settings:
            raise InputError(f"cannot add what was counted with {other.settings} to {self.settings}")
        self.pairs += other.pairs
        self.compared += other.compared
        self._add(*other._table())
        return self

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for the pair that stays and for what nothing is equal to, 0 for its copies."""
        check_counted(self.pairs)
        contents, claims = self._table()
        content, claim, whole = self._read(rows)
        if not len(contents):
            return np.ones(rows.num_rows)
        place = np.minimum(np.searchsorted(contents, content), len(contents) - 1)
        beaten = (contents[place] == content) & (claims[place] != claim)
        return (~(beaten & whole)).astype(np.float64)

    def _read(
        self, rows: pa.RecordBatch
    ) -> tuple[UInt64[np.ndarray, " n"], UInt64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """What each pair holds, who claims its place, and whether it holds all that is compared."""
        content = np.zeros(rows.num_rows, np.uint64)
        whole = np.ones(rows.num_rows, np.bool_)
        for name in self.of:
            column = self._column(rows, name)
            whole &= np.asarray(column.is_valid())
            content = combined(content, hashed(column))
        keys = column_of(rows, "key")
        return content, hashed(keys if TEXT in self.of else row_keys(keys)), whole

    def _column(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        if name == TEXT:
            return folded(texts_of(rows)) if self.text == "folded" else texts_of(rows)
        if name == IMAGE:
            return images_of(rows)
        column = column_of(rows, name)
        if pa.types.is_nested(column.type):
            raise InputError(f"column {name!r}: expected plain values, got {column.type}")
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        bytes_ = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
        return column if any(is_kind(column.type) for is_kind in bytes_) else column.cast(pa.string())

    def _add(self, content: np.ndarray, claim: np.ndarray) -> None:
        self._waiting.append((content, claim))
        self._waits += len(content)
        if self._waits > max(len(self._content), 1 << 16):  # so all sorting together is a few times n log n
            self._table()

    def _table(self) -> tuple[UInt64[np.ndarray, " m"], UInt64[np.ndarray, " m"]]:
        """Distinct contents, ascending, and the smallest claim on each."""
        if self._waiting:
            content = np.concatenate([self._content, *(pair[0] for pair in self._waiting)])
            claim = np.concatenate([self._claim, *(pair[1] for pair in self._waiting)])
            self._waiting, self._waits = [], 0
            order = np.argsort(content, kind="stable")
            content, claim = content[order], claim[order]
            first = np.flatnonzero(np.diff(content, prepend=content[:1] + np.uint64(1)) != 0)
            self._claim = np.minimum.reduceat(claim, first) if len(first) else claim
            self._content = content[first]
        return self._content, self._claim

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Distinct contents, the claim on each, and how many pairs were seen and compared."""
        return {**dict(zip(_NAMES, self._table(), strict=True)), "pairs": self.pairs, "compared": self.compared}

    def load_state_dict(self, state: State) -> None:
        """Take over what was saved."""
        self._clear()
        self._content, self._claim = (np.asarray(state[name], np.uint64) for name in _NAMES)
        self.pairs, self.compared = int(state["pairs"]), int(state["compared"])

    def report(self) -> dict[str, Any]:
        """Pairs seen, pairs that hold all that is compared, and how many distinct ones there are among those."""
        return {"pairs": self.pairs, "compared": self.compared, "distinct": len(self._table()[0])}


def folded(texts: pa.StringArray) -> pa.StringArray:
    """Captions in small letters and Unicode form KC, with one blank for all that is no letter, mark or digit.

    A caption of nothing else (an emoji) stays as it is.
    """
    plain = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    plain = pc.utf8_trim(pc.replace_substring_regex(plain, r"[^\pL\pM\pN]+", " "), " ")
    return pc.if_else(pc.equal(plain, ""), texts, plain)
