"""The pairs of a few rows on their way through a pass: who is still in, with which words, under which flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.data.curate.engine.step import FLAG_SCHEMA, CurateStep, FlagStep, RecipeStep, RewriteStep

ALIVE = -1
DUPLICATE = -2
What = Literal["refused", "thinned_out", "rewritten"]
Example = tuple[int, What, str, str | None, str | None]
"""Number of the step, what it did, the pair's key, its words and, when rewritten, its new words (the first)."""
EXAMPLES = 3
"""Examples of each kind that a piece remembers."""
_SHOWN = 300  # letters of an example


@dataclass(frozen=True, slots=True)
class Flags:
    """What one flag step said of the pairs of a batch.

    Attributes:
        labels: (n,) strings, null where there is none.
        scores: (n,) float64, NaN where there is none.
    """

    labels: pa.StringArray
    scores: np.ndarray


class PairBatch:
    """Pairs and what has become of them.

    Attributes:
        pairs: (n,) key, text and the columns that the pass's steps read.
        row: (n,) which row of the batch read each belongs to.
        fate: (n,) int16: ALIVE, DUPLICATE, or 2s for refused by step s and 2s + 1 for thinned out by it.
        rewritten: (n,) bool, True where the text is not the pool's own.
        flags: by number of the step.
    """

    def __init__(
        self, pairs: pa.RecordBatch, row: np.ndarray, fate: np.ndarray, rewritten: np.ndarray, flags: dict[int, Flags]
    ) -> None:
        """Take pairs as an earlier pass, or nobody yet, has left them."""
        self.pairs, self.row, self.fate, self.rewritten, self.flags = pairs, row, fate, rewritten, flags

    def left(self, columns: Iterable[str]) -> pa.RecordBatch:
        """The pairs that are still in, with these columns beside key and text."""
        seen = self.pairs.select(list(dict.fromkeys(["key", "text", *columns])))
        alive = np.flatnonzero(self.fate == ALIVE)
        return seen if len(alive) == len(self.fate) else seen.take(pa.array(alive))

    def ask(self, number: int, name: str, step: RecipeStep, *, seed: int, examples: list[Example]) -> np.ndarray:
        """Let a step say what becomes of the pairs that are still in.

        Returns:
            (3,) int64: pairs asked; then refused and thinned out, or rewritten and written, or flagged and 0.
        """
        left = self.left(step.columns)
        counts = np.zeros(3, np.int64)
        if left.num_rows:
            counts[0] = left.num_rows
            if isinstance(step, CurateStep):
                counts[1:] = self._keep(number, name, step, left, seed, examples)
            elif isinstance(step, RewriteStep):
                counts[1:] = self._map(number, name, step, left, examples)
            elif isinstance(step, FlagStep):
                counts[1] = self._flag(number, name, step, left)
        return counts

    def _keep(
        self, number: int, name: str, step: CurateStep, left: pa.RecordBatch, seed: int, examples: list[Example]
    ) -> tuple[int, int]:
        chance = step.keep(left)
        if chance.shape != (left.num_rows,):
            raise InputError(f"{name}: expected {left.num_rows} probabilities, got an array of shape {chance.shape}")
        alive = np.flatnonzero(self.fate == ALIVE)
        refused = np.flatnonzero(chance <= 0)
        drawn = np.flatnonzero((chance > 0) & (chance < 1))
        keys = left.column("key").take(pa.array(drawn)).to_pylist()
        thinned = drawn[hash_uniform(keys, seed=seed, salt=f"{number} {name}") >= chance[drawn]]
        marked: tuple[tuple[np.ndarray, What], ...] = ((refused, "refused"), (thinned, "thinned_out"))
        for mark, (places, what) in enumerate(marked):
            self.fate[alive[places]] = 2 * number + mark
            self._remember(examples, number, what, left, places)
        return len(refused), len(thinned)

    def _map(
        self, number: int, name: str, step: RewriteStep, left: pa.RecordBatch, examples: list[Example]
    ) -> tuple[int, int]:
        lists = step.map(left)
        sizes = np.asarray(lists.value_lengths().fill_null(0))
        if len(lists) != left.num_rows or (sizes < 1).any() or (step.gives == "one" and (sizes > 1).any()):
            wanted = "one text" if step.gives == "one" else "at least one text"
            raise InputError(f"{name}: expected {wanted} for each of {left.num_rows} pairs, got lists of {sizes[:5]}")
        alive = np.flatnonzero(self.fate == ALIVE)
        if (sizes > 1).any():
            sizes_all = np.ones(len(self.fate), np.int64)
            sizes_all[alive] = sizes
            self._spread(sizes_all)
        new = lists.flatten().cast(pa.string())
        index = self.pairs.schema.get_field_index("text")
        in_place = pa.array(self.fate == ALIVE)
        old = self.pairs.column(index).filter(in_place)
        changed = np.asarray(pc.call_function("not_equal", [old, new]).fill_null(False))
        texts = pc.call_function("replace_with_mask", [self.pairs.column(index), in_place, new])
        self.pairs = self.pairs.set_column(index, self.pairs.schema.field(index), texts)
        self.rewritten[np.flatnonzero(self.fate == ALIVE)[changed]] = True
        seen = self.pairs.select(["key"]).filter(in_place).append_column("text", old).append_column("new", new)
        self._remember(examples, number, "rewritten", seen, np.flatnonzero(changed))
        return int(changed.sum()), len(new)

    def _spread(self, sizes: np.ndarray) -> None:
        """Put ``sizes`` pairs in the place of each."""
        parent = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(parent)) - (np.cumsum(sizes) - sizes)[parent]
        keys = self.pairs.column("key").to_pylist()
        named = [f"{keys[p]}#{n}" if sizes[p] > 1 else keys[p] for p, n in zip(parent, place, strict=True)]
        at = pa.array(parent)
        pairs = self.pairs.take(at)
        self.pairs = pairs.set_column(0, pairs.schema.field(0), pa.array(named, pa.string()))
        self.row, self.fate, self.rewritten = self.row[parent], self.fate[parent], self.rewritten[parent]
        self.flags = {n: Flags(flags.labels.take(at), flags.scores[parent]) for n, flags in self.flags.items()}

    def _flag(self, number: int, name: str, step: FlagStep, left: pa.RecordBatch) -> int:
        said = step.flag(left)
        if said.num_rows != left.num_rows or said.schema.names != FLAG_SCHEMA.names:
            raise InputError(
                f"{name}: expected label and score of {left.num_rows} pairs, got {said.num_rows} rows of "
                f"{', '.join(said.schema.names)}"
            )
        alive = np.flatnonzero(self.fate == ALIVE)
        place = np.full(len(self.fate), -1)
        place[alive] = np.arange(len(alive))
        index = pa.array(place, pa.int64(), mask=place < 0)
        labels = said.column("label").cast(pa.string()).take(index)
        scores = said.column("score").cast(pa.float64()).take(index).fill_null(np.nan)
        self.flags[number] = Flags(labels, scores.to_numpy(zero_copy_only=False))
        return len(labels) - labels.null_count

    @staticmethod
    def _remember(examples: list[Example], number: int, what: What, rows: pa.RecordBatch, places: np.ndarray) -> None:
        held = sum(example[:2] == (number, what) for example in examples)
        for place in places[: max(EXAMPLES - held, 0)].tolist():
            new = _shown(rows, "new", place) if what == "rewritten" else None
            examples.append((number, what, rows.column("key")[place].as_py(), _shown(rows, "text", place), new))


def _shown(rows: pa.RecordBatch, name: str, place: int) -> str | None:
    text = rows.column(name)[place].as_py()
    return None if text is None else text[:_SHOWN]
