"""One curation, as its workers see it: read a piece, let steps say what becomes of its pairs, then count or write."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tether.core.errors import InputError
from tether.data.curate.batch import ALIVE, DUPLICATE, Batch, Example
from tether.data.curate.piece_state import Left, PieceState, collected, left_of, load_state, save_state
from tether.data.curate.pool import Pool, explode
from tether.data.curate.shard import STATE, Format, Shard
from tether.data.curate.step import IMAGE, CurateStep, FlagStep, RecipeStep, RewriteStep

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
        duplicates: for each piece the (row,) places of rows whose key stood earlier in the pool.
    """

    pool: Pool
    steps: tuple[tuple[str, RecipeStep], ...]
    seed: int
    out: Path
    strict: bool
    written_as: Format = "parquet"
    licence: str | None = None
    duplicates: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The readings of the pool."""
        return passes_of(self.steps, keys_unique=self.pool.keys_unique)

    def state_path(self, number: int, piece: int) -> Path:
        """Where pass ``number`` leaves what it found in a piece."""
        return self.out / STATE / f"pass-{number}" / f"{piece:06d}.npz"

    def work(self, number: int, piece: int) -> Tally:
        """Do one piece of one pass; every file it leaves is whole or absent."""
        passes = self.passes
        doing, last = passes[number], number == len(passes) - 1
        before = PieceState(load_state(self.state_path(number - 1, piece))) if number else None
        counting = self._counter(doing.counts)
        shard = self._shard(piece) if last else None
        examples: list[Example] = [] if before is None else [*before.examples]
        tally = np.zeros((len(self.steps), 3), np.int64)
        batches: list[Left] = []
        duplicates = kept = 0
        hashes: list[np.ndarray] = []
        bad: list[tuple[str, str]] = []
        done, rows_done, duplicate_rows = 0, 0, self.duplicates.get(piece)
        try:
            for rows in self.pool.read(piece, columns="all" if last else "captions", extra=self._extra(doing, last)):
                for key, reason in rows.bad:
                    if self.strict:
                        raise InputError(f"{self.pool.name}: bad row {key!r}: {reason}")
                    bad.append((key, reason))
                pairs, row = explode(rows)
                if before is None:
                    batch = Batch(pairs, row, np.full(len(row), ALIVE, np.int16), np.zeros(len(row), np.bool_), {})
                    if not self.pool.keys_unique:
                        hashes.append(_hashes(rows.keys.to_pylist()))
                    if duplicate_rows is not None:
                        batch.fate[np.isin(row + rows_done, duplicate_rows)] = DUPLICATE
                elif done + len(row) > len(before.fate):
                    break  # refused below
                else:
                    batch = before.batch(pairs, row, done)
                done, rows_done = done + len(row), rows_done + len(rows.keys)
                for step in doing.asks:
                    name, part = self.steps[step]
                    tally[step] += batch.ask(step, name, part, seed=self.seed, examples=examples)
                if counting is not None:
                    left = batch.left(counting.columns)
                    if left.num_rows:
                        counting.partial_fit(left)
                if shard is not None:
                    shard.add(rows, batch)
                    kept += int((batch.fate == ALIVE).sum())
                else:
                    batches.append(left_of(batch))
                duplicates += int((batch.fate == DUPLICATE).sum())
            if before is not None and (done, rows_done) != (len(before.fate), before.rows):
                raise InputError(
                    f"{self.pool.name}: piece {piece} had {before.rows} good rows when it was counted and has others "
                    "now; the pool must not change while it is curated. Start again in a new folder"
                )
            found: dict[str, Any] = {} if last else collected(batches)
            if shard is not None:
                found |= {"shard": json.dumps(shard.close()), "notes": json.dumps(shard.notes(), ensure_ascii=False)}
        except BaseException:
            if shard is not None:
                shard.abandon()
            raise
        found |= {"bad": json.dumps(bad, ensure_ascii=False), "rows": rows_done}
        found |= {"pairs": done - duplicates, "kept": kept, "duplicates": duplicates}
        found |= {"tally": tally if before is None else tally + before.tally}
        found |= {"examples": json.dumps(examples, ensure_ascii=False)}
        if hashes:
            found["hashes"] = np.concatenate(hashes)
        if counting is not None:
            found |= {f"state.{key}": value for key, value in counting.state_dict().items()}
        save_state(self.state_path(number, piece), found)
        return asked(doing, tally)

    def _counter(self, number: int | None) -> CurateStep | None:
        if number is None:
            return None
        step = self.steps[number][1]
        assert isinstance(step, CurateStep)
        return step.empty()

    def _extra(self, doing: Pass, last: bool) -> list[str]:
        """Columns beside the captions that a pass reads."""
        numbers = [*doing.asks, *([] if doing.counts is None else [doing.counts])]
        names = list(itertools.chain.from_iterable(self.steps[number][1].columns for number in numbers))
        if last:
            names += [self.licence] if self.licence else []
            names += [IMAGE] if self.written_as == "webdataset" and IMAGE in self.pool.column_names() else []
        return [name for name in dict.fromkeys(names) if name not in ("key", "text")]

    def _shard(self, piece: int) -> Shard:
        return Shard(
            out=self.out,
            piece=piece,
            pool=self.pool,
            written_as=self.written_as,
            several=any(isinstance(step, RewriteStep) and step.gives == "several" for _, step in self.steps),
            names={number: name for number, (name, step) in enumerate(self.steps) if isinstance(step, FlagStep)},
            reason=self.reason,
            licence=self.licence,
        )

    def reason(self, fate: int) -> tuple[str, str]:
        """Step and reason of a mark."""
        name, step = self.steps[fate // 2]
        assert isinstance(step, CurateStep)
        return name, "thinned out" if fate % 2 else step.refusal


def _hashes(keys: Sequence[str]) -> np.ndarray:
    """(n,) uint64 of BLAKE2b: equal keys are found by them."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)
