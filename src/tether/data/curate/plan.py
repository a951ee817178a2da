"""One curation, as its workers see it: read a piece, apply the step before, count for the next one or write."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from tether.core.draw import hash_uniform
from tether.core.errors import InputError
from tether.core.files import atomic_path
from tether.data.curate.pool import Pool, Rows, explode
from tether.data.curate.step import CurateStep

ALIVE = -1
DUPLICATE = -2
STATE = ".curate"
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "text", "step", "reason")])


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with a pool.

    Pass p of n + 1 applies step p - 1 (counted in the pass before) and counts step p over what is left, the last one
    writes. A pass leaves one file for each piece, so that a run which was killed repeats one piece at most.

    Attributes:
        pool: what is read.
        steps: the steps by name, in order; those before the running pass hold the counts of the whole pool.
        seed: of every draw.
        out: the folder that is written.
        strict: a bad row is an error.
        duplicates: for each piece the (row,) places of rows whose key stood earlier in the pool.
    """

    pool: Pool
    steps: tuple[tuple[str, CurateStep], ...]
    seed: int
    out: Path
    strict: bool
    duplicates: dict[int, np.ndarray] = field(default_factory=dict)

    def state_path(self, number: int, piece: int) -> Path:
        """Where pass ``number`` leaves what it found in a piece."""
        return self.out / STATE / f"pass-{number}" / f"{piece:06d}.npz"

    def work(self, number: int, piece: int) -> None:
        """Do one piece of one pass; every file it leaves is whole or absent."""
        last = number == len(self.steps)
        earlier = load_state(self.state_path(number - 1, piece)) if number else None
        counting = None if last else self.steps[number][1].empty()
        writer = _Shard(self, piece) if last else None
        fates: list[np.ndarray] = []
        hashes: list[np.ndarray] = []
        bad: list[tuple[str, str]] = []
        done, row_place, duplicate_rows = 0, 0, self.duplicates.get(piece)
        for rows in self.pool.read(piece, columns="all" if last else "captions"):
            for key, reason in rows.bad:
                if self.strict:
                    raise InputError(f"{self.pool.name}: bad row {key!r}: {reason}")
                bad.append((key, reason))
            pairs, row = explode(rows)
            if earlier is None:
                fate = np.full(len(row), ALIVE, np.int16)
                if not self.pool.keys_unique:
                    hashes.append(_hashes(rows.keys))
                if duplicate_rows is not None:
                    fate[np.isin(row + row_place, duplicate_rows)] = DUPLICATE
            else:
                fate = earlier["fate"][done : done + len(row)].copy()
                if len(fate) < len(row):
                    break  # refused below
                self._apply(number - 1, pairs, fate)
            alive = np.flatnonzero(fate == ALIVE)
            if counting is not None and len(alive):
                counting.partial_fit(pairs if len(alive) == len(fate) else pairs.take(pa.array(alive)))
            if writer is not None:
                writer.add(rows, pairs, row, fate)
            fates.append(fate)
            done, row_place = done + len(row), row_place + len(rows.keys)
        if earlier is not None and (done, row_place) != (len(earlier["fate"]), int(earlier["rows"])):
            raise InputError(
                f"{self.pool.name}: piece {piece} had {int(earlier['rows'])} good rows when it was counted and has "
                "others now; the pool must not change while it is curated. Start again in a new folder"
            )
        found: dict[str, Any] = {
            "fate": np.concatenate(fates) if fates else np.zeros(0, np.int16),
            "bad": json.dumps(bad, ensure_ascii=False),
            "rows": row_place,
        }
        if hashes:
            found["hashes"] = np.concatenate(hashes)
        if counting is not None:
            found |= {f"state.{key}": value for key, value in counting.state_dict().items()}
        if writer is not None:
            found["shard"] = json.dumps(writer.close())
        with atomic_path(self.state_path(number, piece)) as temporary, temporary.open("wb") as file:
            np.savez(file, **found)

    def _apply(self, number: int, pairs: pa.RecordBatch, fate: np.ndarray) -> None:
        """Draw for one step: its refusals are marked 2s, what it thins out 2s + 1."""
        name, step = self.steps[number]
        alive = np.flatnonzero(fate == ALIVE)
        if not len(alive):
            return
        left = pairs.take(pa.array(alive))
        chance = step.keep(left)
        fate[alive[chance <= 0]] = 2 * number
        drawn = np.flatnonzero((chance > 0) & (chance < 1))
        keys = left.column("key").take(pa.array(drawn)).to_pylist()
        lost = hash_uniform(keys, seed=self.seed, salt=f"{number} {name}") >= chance[drawn]
        fate[alive[drawn[lost]]] = 2 * number + 1

    def reason(self, fate: int) -> tuple[str, str]:
        """Step and reason of a mark."""
        name, step = self.steps[fate // 2]
        return name, "thinned out" if fate % 2 else step.refusal


def load_state(path: Path) -> dict[str, np.ndarray]:
    """What a pass left for one piece; never unpickles."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


class _Shard:
    """One written piece: kept rows with their kept captions, and the list of what was dropped."""

    def __init__(self, plan: Plan, piece: int) -> None:
        self._plan = plan
        self._name = f"part-{piece:06d}.parquet"
        self._kept: pq.ParquetWriter | None = None
        self._buffer = plan.out / STATE / f"writing-{piece:06d}.parquet"
        self._dropped: list[pa.RecordBatch] = []
        self._digest = hashlib.sha256()
        self._rows = self._pairs = 0

    def add(self, rows: Rows, pairs: pa.RecordBatch, row: np.ndarray, fate: np.ndarray) -> None:
        table = rows.table
        assert table is not None
        alive = fate == ALIVE
        kept = np.unique(row[alive])
        if len(kept):
            self._write(rows, table, kept, row, alive)
        lost = np.flatnonzero(fate >= 0)
        if len(lost):
            taken = pairs.take(pa.array(lost))
            marks = {mark: self._plan.reason(int(mark)) for mark in np.unique(fate[lost])}
            named = [marks[mark] for mark in fate[lost]]
            columns = [taken.column("key"), taken.column("text"), *map(pa.array, zip(*named, strict=True))]
            self._dropped.append(pa.record_batch(columns, schema=DROPPED_SCHEMA))

    def _write(self, rows: Rows, table: pa.Table, kept: np.ndarray, row: np.ndarray, alive: np.ndarray) -> None:
        counts = np.asarray(rows.texts.value_lengths().fill_null(0))
        chosen = table.take(pa.array(kept))
        real = alive & (counts[row] > 0)
        texts = rows.texts.flatten().filter(pa.array(alive[counts[row] > 0]))
        sizes = np.bincount(row[real], minlength=len(counts))[kept]
        name = self._plan.pool.captions_column
        index = table.schema.get_field_index(name)
        wanted = table.schema.field(index)
        if pa.types.is_list(wanted.type) or pa.types.is_large_list(wanted.type):
            offsets = pa.array(np.concatenate(([0], np.cumsum(sizes))), pa.int32())
            lists = pa.ListArray.from_arrays(offsets, texts).cast(wanted.type)
            chosen = chosen.set_column(index, wanted, lists)
        if self._kept is None:
            self._buffer.parent.mkdir(parents=True, exist_ok=True)
            self._kept = pq.ParquetWriter(self._buffer, chosen.schema, compression="zstd")
        self._kept.write_table(chosen)
        # Row by row, so that the digest does not depend on how many rows are read at once.
        starts = (np.cumsum(sizes) - sizes).tolist()
        words = texts.to_pylist()
        for key, start, size in zip(rows.keys.take(pa.array(kept)).to_pylist(), starts, sizes.tolist(), strict=True):
            self._digest.update("\x00".join([key, *words[start : start + size], "\x01"]).encode())
        self._rows += len(kept)
        self._pairs += int(real.sum())

    def close(self) -> dict[str, Any]:
        if self._dropped:
            # Not Parquet: whoever opens the folder as a data set shall not find these rows again.
            with atomic_path(self._plan.out / "dropped" / Path(self._name).with_suffix(".csv")) as temporary:
                csv.write_csv(pa.Table.from_batches(self._dropped), temporary)
        if self._kept is None:
            return {"file": None, "rows": 0, "pairs": 0, "sha256": self._digest.hexdigest()}
        self._kept.close()
        with self._buffer.open("rb") as file:
            os.fsync(file.fileno())
        self._buffer.replace(self._plan.out / self._name)
        return {"file": self._name, "rows": self._rows, "pairs": self._pairs, "sha256": self._digest.hexdigest()}


def _hashes(keys: pa.StringArray) -> np.ndarray:
    """(n,) uint64 of BLAKE2b: equal keys are found by them."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys.to_pylist())
    return np.frombuffer(digests, np.uint64)
