"""What a pass leaves of one piece: the fate of every pair, its new words, its flags and the counts of a step."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tether.core.arrays import read_arrays
from tether.core.atomic_io import atomic_path
from tether.core.errors import InputError
from tether.data.curate.engine.batch import Example, Flags, PairBatch

_DIGEST = "sha256"


def load_state(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that ``save_state`` wrote; never unpickles."""
    try:
        arrays = read_arrays(path, what="state of a piece")
        if str(arrays.pop(_DIGEST, "")) != _digest(arrays):
            raise InputError(f"{path}: damaged: its arrays do not have the digest that it names")
    except InputError as error:
        raise InputError(f"{error}; without this file its piece is done again") from error
    return arrays


def save_state(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays and their digest atomically."""
    given = {name: np.asarray(array) for name, array in arrays.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **given, **{_DIGEST: np.asarray(_digest(given))})  # pyrefly: ignore


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"\x00{name}\x00{array.dtype.str}\x00{array.shape}\x00".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class PieceState:
    """Grows by the batches of one pass and hands them out again, in order, in the next."""

    def __init__(self, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Start empty, or from what ``load_state`` read."""
        given = arrays or {}
        self.fate = given.get("fate", np.zeros(0, np.int16))
        self.rows = int(given["rows"]) if given else 0
        self.tally = given.get("tally", np.zeros((0, 3), np.int64))
        self.examples: list[Example] = json.loads(str(given["examples"])) if given else []
        self._texts = _Sparse("text", given)
        self._flags = {
            int(name.split(".")[1]): _Sparse(name.removesuffix(".place"), given)
            for name in given
            if name.startswith("flag.") and name.endswith(".place")
        }

    def batch(self, pairs: pa.RecordBatch, row: np.ndarray, start: int) -> PairBatch:
        """The pairs from number ``start`` on, as the pass before left them."""
        stop = start + len(row)
        rewritten, values = np.zeros(len(row), np.bool_), self._texts.values(start, stop)
        if len(values):
            rewritten[self._texts.places(start, stop)] = True
            index = pairs.schema.get_field_index("text")
            texts = pc.call_function("replace_with_mask", [pairs.column(index), pa.array(rewritten), values])
            pairs = pairs.set_column(index, pairs.schema.field(index), texts)
        flags: dict[int, Flags] = {}
        for number, sparse in self._flags.items():
            labels, scores = np.full(len(row), None, object), np.full(len(row), np.nan)
            places = sparse.places(start, stop)
            labels[places] = sparse.values(start, stop).to_pylist()
            scores[places] = sparse.scores(start, stop)
            flags[number] = Flags(pa.array(labels, pa.string()), scores)
        return PairBatch(pairs, row, self.fate[start:stop].copy(), rewritten, flags)


@dataclass(frozen=True, slots=True)
class Left:
    """What is remembered of one batch: new words of pairs that are still in, and flags, by position."""

    fate: np.ndarray
    texts: tuple[np.ndarray, pa.StringArray]
    flags: Mapping[int, tuple[np.ndarray, pa.StringArray, np.ndarray]]


def left_of(batch: PairBatch) -> Left:
    """A batch without its words and images, so that a piece takes little memory."""
    places = np.flatnonzero(batch.rewritten)
    flags = {}
    for number, given in batch.flags.items():
        at = np.flatnonzero(np.asarray(given.labels.is_valid()))
        flags[number] = (at, given.labels.take(pa.array(at)), given.scores[at])
    return Left(batch.fate, (places, batch.pairs.column("text").take(pa.array(places))), flags)


def collected(batches: Sequence[Left]) -> dict[str, Any]:
    """The arrays of a pass's batches, as ``PieceState`` takes them."""
    if not batches:
        return {"fate": np.zeros(0, np.int16)}
    starts = np.cumsum([0, *(len(batch.fate) for batch in batches[:-1])])
    found: dict[str, Any] = {"fate": np.concatenate([batch.fate for batch in batches])}
    places = [batch.texts[0] + start for batch, start in zip(batches, starts, strict=True)]
    if any(map(len, places)):
        found |= _Sparse.packed("text", np.concatenate(places), pa.concat_arrays([batch.texts[1] for batch in batches]))
    for number in sorted({number for batch in batches for number in batch.flags}):
        given = [(batch.flags[number], start) for batch, start in zip(batches, starts, strict=True)
                 if number in batch.flags]  # fmt: skip
        places = np.concatenate([at + start for (at, _, _), start in given])
        found |= _Sparse.packed(f"flag.{number}", places, pa.concat_arrays([labels for (_, labels, _), _ in given]))
        found[f"flag.{number}.score"] = np.concatenate([scores for (_, _, scores), _ in given])
    return found


class _Sparse:
    """Texts at some positions of a piece, ascending, as arrays that need no pickle."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self._places = arrays.get(f"{name}.place", np.zeros(0, np.int64))
        self._ends = arrays.get(f"{name}.end", np.zeros(0, np.int64))
        self._bytes = arrays.get(f"{name}.bytes", np.zeros(0, np.uint8))
        self._scores = arrays.get(f"{name}.score", np.zeros(0))

    @staticmethod
    def packed(name: str, places: np.ndarray, values: pa.StringArray) -> dict[str, np.ndarray]:
        encoded = [value.encode() for value in values.to_pylist()]
        return {
            f"{name}.place": places,
            f"{name}.end": np.cumsum([len(each) for each in encoded], dtype=np.int64),
            f"{name}.bytes": np.frombuffer(b"".join(encoded), np.uint8),
        }

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        first, last = np.searchsorted(self._places, [start, stop])
        return int(first), int(last)

    def places(self, start: int, stop: int) -> np.ndarray:
        first, last = self._range(start, stop)
        return self._places[first:last] - start

    def values(self, start: int, stop: int) -> pa.StringArray:
        first, last = self._range(start, stop)
        edges = [int(self._ends[first - 1]) if first else 0, *self._ends[first:last].tolist()]
        data = self._bytes[edges[0] : edges[-1]].tobytes()
        texts = [data[a - edges[0] : b - edges[0]].decode() for a, b in itertools.pairwise(edges)]
        return pa.array(texts, pa.string())

    def scores(self, start: int, stop: int) -> np.ndarray:
        first, last = self._range(start, stop)
        return self._scores[first:last]
