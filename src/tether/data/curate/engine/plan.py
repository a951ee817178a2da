"""One curation, as its workers see it: read a piece, let steps say what becomes of its pairs, then count or write."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tether.core.errors import InputError, TetherError, WriteError
from tether.data.curate.engine.batch import ALIVE, DUPLICATE, Example, PairBatch
from tether.data.curate.engine.hashing import hashed
from tether.data.curate.engine.partition_state import Left, PieceState, collected, left_of, load_state, save_state
from tether.data.curate.engine.shard_writer import STATE, Format, Shard
from tether.data.curate.engine.step import IMAGE, ColumnStep, CurateStep, FlagStep, RecipeStep, RewriteStep
from tether.data.curate.pools.pool import Pool, Rows, explode

Tally = tuple[tuple[int, int, int, int], ...]
"""For each step asked in a pass: its number, pairs asked, and two counts as ``Batch.ask`` gives them."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading of the pool.

    Attributes:
        asks: numbers of the steps that say what becomes of each pair, in order.
        counts: number of the step that then counts what is left, or None.
    """

    asks: tuple[int, ...]
    counts: int | None


def passes_of(steps: Sequence[tuple[str, RecipeStep]], *, keys_unique: bool) -> tuple[Pass, ...]:
    """As few passes as there can be: a step that counts the pool ends one, all others join their neighbours.

    The last one writes. Where keys may repeat, there is one before it, so that repeated rows are known by then.
    """
    found: list[Pass] = []
    asks: list[int] = []
    for number, (_, step) in enumerate(steps):
        if isinstance(step, CurateStep) and step.counts == "pool":
            found.append(Pass(tuple(asks), number))
            asks = []
        asks.append(number)
    if not found and not keys_unique:
        found.append(Pass((), None))
    return (*found, Pass(tuple(asks), None))


def asked(doing: Pass, counts: np.ndarray) -> Tally:
    """The rows of (steps, 3) counts that belong to a pass."""
    return tuple((step, int(counts[step, 0]), int(counts[step, 1]), int(counts[step, 2])) for step in doing.asks)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with a pool.

    A pass leaves one file for each piece, so that a run which was killed repeats one piece at most.

    Attributes:
        pool: what is read.
        steps: the steps by name, in order; those that a pass asks hold the counts of the whole pool by then.
        seed: of every draw.
        out: the folder that is written.
        strict: a bad row is an error.
        written_as: form of the shards.
        licence: column of licences, or None.
        raw_csv: lists hold texts as they are, formulas included.
        duplicates: for each piece the (row,) positions of rows whose key occurred earlier in the pool.
    """

    pool: Pool
    steps: tuple[tuple[str, RecipeStep], ...]
    seed: int
    out: Path
    strict: bool
    written_as: Format = "parquet"
    licence: str | None = None
    raw_csv: bool = False
    duplicates: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The readings of the pool."""
        return passes_of(self.steps, keys_unique=self.pool.keys_unique)

    def state_path(self, number: int, piece: int) -> Path:
        """Where pass ``number`` leaves what it found in a piece."""
        return self.out / STATE / f"pass-{number}" / f"{piece:06d}.npz"

    def work(self, number: int, piece: int) -> Tally:
        """Do one piece of one pass; every file is written atomically."""
        doing, last = self.passes[number], number == len(self.passes) - 1
        task = _Piece(self, doing, number=number, piece=piece, last=last)
        try:
            for rows in self.pool.read(piece, columns="all" if last else "captions", extra=self.extra(doing, last)):
                task.take(rows)
            save_state(self.state_path(number, piece), task.found())
        except WriteError as error:
            task.abandon()
            raise TetherError(
                f"{error}; the pieces that are done are kept: when there is room, the same command resumes"
            ) from error
        except BaseException:
            task.abandon()
            raise
        return asked(doing, task.tally)

    def counter(self, doing: Pass) -> CurateStep | None:
        """An empty instance of the step that a pass counts for."""
        if doing.counts is None:
            return None
        step = self.steps[doing.counts][1]
        assert isinstance(step, CurateStep)
        return step.empty()

    def extra(self, doing: Pass, last: bool) -> list[str]:
        """Columns beside the captions that a pass reads."""
        numbers = [*doing.asks, *([] if doing.counts is None else [doing.counts])]
        names = list(itertools.chain.from_iterable(self.steps[number][1].columns for number in numbers))
        if last:
            names += [self.licence] if self.licence else []
            names += [IMAGE] if self.written_as == "webdataset" and IMAGE in self.pool.column_names() else []
        return [name for name in dict.fromkeys(names) if name not in ("key", "text")]

    def shard(self, piece: int) -> Shard:
        """What the last pass writes a piece with."""
        return Shard(
            out=self.out,
            piece=piece,
            pool=self.pool,
            written_as=self.written_as,
            several=any(isinstance(step, RewriteStep) and step.gives == "several" for _, step in self.steps),
            names={number: name for number, (name, step) in enumerate(self.steps) if isinstance(step, FlagStep)},
            columns=[(name, step) for name, step in self.steps if isinstance(step, ColumnStep)],
            reason=self.reason,
            licence=self.licence,
            raw_csv=self.raw_csv,
        )

    def reason(self, fate: int) -> tuple[str, str]:
        """Step and reason of a mark."""
        name, step = self.steps[fate // 2]
        assert isinstance(step, CurateStep)
        return name, "thinned out" if fate % 2 else step.refusal


class _Piece:
    """A piece on its way through a pass: batches come in, what is remembered of them goes out."""

    def __init__(self, plan: Plan, doing: Pass, *, number: int, piece: int, last: bool) -> None:
        self._plan, self._doing, self._piece = plan, doing, piece
        self._before = PieceState(load_state(plan.state_path(number - 1, piece))) if number else None
        self._counting = plan.counter(doing)
        self._shard = plan.shard(piece) if last else None
        self._duplicate_rows = plan.duplicates.get(piece)
        self._examples: list[Example] = [] if self._before is None else [*self._before.examples]
        self._left: list[Left] = []
        self._hashes: list[np.ndarray] = []
        self._bad: list[tuple[str, str]] = []
        self._pairs = self._rows = self._duplicates = self._kept = 0
        self.tally = np.zeros((len(plan.steps), 3), np.int64)

    def take(self, rows: Rows) -> None:
        """Let the pass's steps say what becomes of a few rows."""
        plan = self._plan
        for key, reason in rows.bad:
            if plan.strict:
                raise InputError(f"{plan.pool.name}: bad row {key!r}: {reason}")
            self._bad.append((key, reason))
        batch = self._batch(rows)
        for step in self._doing.asks:
            name, part = plan.steps[step]
            self.tally[step] += batch.ask(step, name, part, seed=plan.seed, examples=self._examples)
        if self._counting is not None:
            left = batch.left(self._counting.columns)
            if left.num_rows:
                self._counting.partial_fit(left)
        if self._shard is not None:
            self._shard.add(rows, batch)
            self._kept += int((batch.fate == ALIVE).sum())
        else:
            self._left.append(left_of(batch))
        self._duplicates += int((batch.fate == DUPLICATE).sum())

    def _batch(self, rows: Rows) -> PairBatch:
        pairs, row = explode(rows)
        start, first = self._pairs, self._rows
        self._pairs, self._rows = start + len(row), first + len(rows.keys)
        if self._before is not None:
            self._check(self._pairs <= len(self._before.fate))
            return self._before.batch(pairs, row, start)
        fate = np.full(len(row), ALIVE, np.int16)
        if not self._plan.pool.keys_unique:
            self._hashes.append(hashed(rows.keys))
        if self._duplicate_rows is not None:
            fate[np.isin(row + first, self._duplicate_rows)] = DUPLICATE
        return PairBatch(pairs, row, fate, np.zeros(len(row), np.bool_), {})

    def _check(self, same: bool) -> None:
        if not same:
            assert self._before is not None
            raise InputError(
                f"{self._plan.pool.name}: piece {self._piece} had {self._before.rows} good rows when it was counted "
                "and has others now; the pool must not change while it is curated. Start again in a new folder"
            )

    def found(self) -> dict[str, Any]:
        """What the next pass and the manifest need to know."""
        before = self._before
        if before is not None:
            self._check((self._pairs, self._rows) == (len(before.fate), before.rows))
        found: dict[str, Any] = {} if self._shard else collected(self._left)
        if self._shard is not None:
            found["shard"] = json.dumps(self._shard.close())
            found["notes"] = json.dumps(self._shard.notes(), ensure_ascii=False)
        if self._hashes:
            found["hashes"] = np.concatenate(self._hashes)
        if self._counting is not None:
            found |= {f"state.{key}": value for key, value in self._counting.state_dict().items()}
        return found | {
            "bad": json.dumps(self._bad, ensure_ascii=False),
            "examples": json.dumps(self._examples, ensure_ascii=False),
            "rows": self._rows,
            "pairs": self._pairs - self._duplicates,
            "duplicates": self._duplicates,
            "kept": self._kept,
            "tally": self.tally if before is None else self.tally + before.tally,
        }

    def abandon(self) -> None:
        """Remove what is half written."""
        if self._shard is not None:
            self._shard.abandon()
