"""Features in parts: which rows, and that a run after any stop or damage leaves what an uninterrupted one does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tether.core.errors import InputError
from tether.core.types import Block, ImageSpec, Row
from tether.data.bad_rows import named_in
from tether.data.features import parquet
from tether.data.features.parts import LEDGER, MadePart, make_parts
from tether.data.features.selection import Walk, divide


class Shades:
    """Images of one shade, in blocks of ten; keys may come twice, images may be lost, and reading may be stopped."""

    name, version = "shades", "1"

    def __init__(self, keys: Sequence[str], *, known: bool = True, lost: Sequence[str] = (), block: int = 10) -> None:
        self.keys, self.known, self.lost, self.block = list(keys), known, set(lost), block
        self.read_rows, self.stop = 0, -1

    def blocks(self) -> Sequence[Block]:
        starts = range(0, len(self.keys), self.block)
        return [Block(str(s), min(self.block, len(self.keys) - s) if self.known else None) for s in starts]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        first = int(block.id)
        for at in range(first + start, min(first + self.block, len(self.keys))):
            if self.read_rows == self.stop:
                raise KeyboardInterrupt
            self.read_rows += 1
            key = self.keys[at]
            image = b"no image" if key in self.lost else np.full((4, 4, 3), at % 256, np.uint8)
            yield Row(key, image, (f"caf\udce9 {at}",))


class Means:
    """The mean of each image."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.means: list[float] = []

    def add(self, rows, pixels, *, refuse) -> None:
        for row, mean in zip(rows, pixels.float().mean(dim=(1, 2, 3)).tolist(), strict=True):
            if mean == 13:
                refuse(row.key, "unlucky")
            else:
                self.keys.append(row.key)
                self.means.append(mean)

    def table(self) -> pa.Table:
        return pa.table({"key": pa.array(self.keys, pa.string()), "mean": pa.array(self.means, pa.float64())})


def make(source: Shades, folder: Path, **named) -> tuple[list[MadePart], int]:
    usual = {"part_rows": 8, "batch_size": 3, "image_spec": ImageSpec((4, 4)), "bad_rows": folder / "bad_rows.jsonl"}
    return make_parts(source, folder=folder, maker=lambda number, count: Means(), **{**usual, **named})


def told(made: tuple[list[MadePart], int]) -> tuple[object, ...]:
    return [(part.path.name, part.rows, part.digest) for part in made[0]], made[1]


def names(count: int) -> list[str]:
    return [f"k{at}" for at in range(count)]


@settings(max_examples=20)
@given(
    known=st.booleans(),
    stops=st.lists(st.integers(0, 45), max_size=4),
    lost=st.sets(st.integers(0, 39), max_size=12),
    twice=st.lists(st.integers(0, 39), max_size=4),
)
@example(known=False, stops=[16], lost={0, 1, 2, 3, *range(16, 24)}, twice=[0] * 4)
def test_stopped_anywhere_it_leaves_what_an_uninterrupted_run_leaves(tmp_path_factory, known, stops, lost, twice):
    folder = tmp_path_factory.mktemp("parts")
    keys = [*names(40), *(f"k{at}" for at in twice)]
    bad = [f"k{at}" for at in lost]
    for stop in stops:
        source = Shades(keys, known=known, lost=bad)
        source.stop = stop
        try:
            make(source, folder / "stopped")
        except KeyboardInterrupt:
            continue
    found, whole = (make(Shades(keys, known=known, lost=bad), folder / name) for name in ("stopped", "whole"))
    assert told(found) == told(whole)
    named = [sorted(named_in(folder / name / "bad_rows.jsonl")) for name in ("stopped", "whole")]
    assert named[0] == named[1]
    # images that come back are put where they belong, and the other rows are not made again
    again, fresh = (make(Shades(keys, known=known), folder / name) for name in ("stopped", "fresh"))
    assert told(again) == told(fresh)


@pytest.mark.parametrize("known", [True, False])
def test_what_is_whole_is_not_read_again(tmp_path, known):
    source = Shades(names(200), known=known, block=3)
    parts, bad = make(source, tmp_path)
    found = [key for part in parts for key in parquet.keys_in(part.path)]
    assert (found, bad) == ([key for key in names(200) if key != "k13"], 1)  # in order
    source.read_rows = 0
    make(source, tmp_path)
    assert source.read_rows == 8  # of the part with the refused row


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_part_or_ledger_costs_what_it_held(tmp_path, known):
    source = Shades(names(40), known=known)
    whole = told(make(source, tmp_path))
    for at in (3, -5):
        path = tmp_path / "part-00003.parquet"
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        assert told(make(source, tmp_path)) == whole
    text = (tmp_path / LEDGER).read_text()
    (tmp_path / LEDGER).write_text(text[:-7])  # cut off by a crash
    assert told(make(source, tmp_path)) == whole
    (tmp_path / LEDGER).write_text('\n[1]\n{"path": "part-00000.parquet", "steps": 3}\n{}')
    assert told(make(source, tmp_path)) == whole
    said = json.loads((tmp_path / LEDGER).read_text().split("\n")[-1])
    for wrong in ({"rows": float("inf")}, {"rows": 7_000}, {"steps": [[float("inf"), 1, True]]}):
        with (tmp_path / LEDGER).open("a") as file:
            file.write("\n" + json.dumps({**said, **wrong}))
        assert told(make(source, tmp_path)) == whole


def test_many_bad_rows_in_what_is_tried_again_are_no_bad_source(tmp_path):
    lost = names(200)[100:150]
    source = Shades(names(200), lost=lost)
    for _ in range(2):
        parts, bad = make(source, tmp_path)
        assert (sum(part.rows for part in parts), bad) == (149, 51)
    with pytest.raises(InputError, match="bad row 'k13'"):
        make(source, tmp_path, strict=True)
    with pytest.raises(InputError, match=r"more than 50%"):
        make(Shades(names(200), lost=names(100)), tmp_path / "other")
    with pytest.raises(InputError, match=r"all 4 rows are bad, the latest: not an image"):
        make(Shades(names(4), lost=names(4)), tmp_path / "all")


def test_a_part_that_comes_back_takes_its_keys_from_those_behind_it(tmp_path):
    keys = [*names(12), *names(8)]
    source = Shades(keys)
    whole = told(make(source, tmp_path))
    assert whole[1] == 8
    (tmp_path / "part-00000.parquet").unlink()
    source.keys[:8] = [f"x{at}" for at in range(8)]
    assert make(source, tmp_path)[1] == 1  # an unlucky image
    source.keys[:8] = names(8)
    (tmp_path / "part-00000.parquet").unlink()
    assert told(make(source, tmp_path)) == whole


def test_columns_of_two_kinds_become_text_when_rows_join_a_part(tmp_path):
    class Kinds(Means):
        def table(self) -> pa.Table:
            table = super().table()
            return table if "k0" not in self.keys else table.append_column("more", pa.array(["a"] * len(table)))

    source = Shades(names(4), lost=["k0"])
    named = {"folder": tmp_path, "image_spec": ImageSpec((4, 4)), "part_rows": 8, "bad_rows": tmp_path / "b.jsonl"}
    make_parts(source, maker=lambda number, count: Kinds(), **named)
    source.lost.clear()
    (part,), _ = make_parts(source, maker=lambda number, count: Kinds(), **named)
    assert parquet.read(part.path).to_pydict() == {
        "key": names(4),
        "mean": [0.0, 1.0, 2.0, 3.0],
        "more": ["a", None, None, None],
    }


def test_progress_counts_what_is_on_disk(tmp_path):
    told: list[tuple[int, int | None]] = []
    make(Shades(names(20)), tmp_path, on_progress=lambda *step: told.append(step))
    assert told[-1] == (20, 20)
    assert told == sorted(told)
    assert torch.tensor([done for done, _ in told]).unique().tolist() == [0, 3, 6, 8, 11, 14, 16, 19, 20]


class Numbers:
    """Rows that are their own number, in blocks of given sizes."""

    name, version = "numbers", "1"

    def __init__(self, sizes: Sequence[int], *, known: bool) -> None:
        self.sizes, self.known = sizes, known
        self.opened: list[str] = []

    def blocks(self) -> Sequence[Block]:
        return [Block(str(at), size if self.known else None) for at, size in enumerate(self.sizes)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        self.opened.append(block.id)
        first = sum(self.sizes[: int(block.id)])
        for at in range(start, self.sizes[int(block.id)]):
            yield Row(str(first + at), None)


def numbers(source: Numbers, *, limit: int, part_rows: int = 512) -> list[int]:
    parts = divide(source, limit=limit, part_rows=part_rows)
    return [int(row.key) for part in parts for block in part.blocks() for row in part.read(block)]


@given(total=st.integers(1, 3000), limit=st.integers(1, 3000), block=st.integers(1, 700))
@example(total=100, limit=90, block=40)
@example(total=1010, limit=1000, block=1024)
@example(total=2001, limit=2000, block=64)
@example(total=10_001, limit=10_000, block=1024)
def test_exactly_the_limit_and_spread(total, limit, block):
    sizes = [min(block, total - start) for start in range(0, total, block)]
    found = numbers(Numbers(sizes, known=True), limit=limit)
    assert len(found) == len(set(found)) == min(limit, total)
    assert found == sorted(found)
    assert found[0] == 0
    if min(limit, total) > 1:
        assert found[-1] == total - 1
        gap = max(after - before for before, after in pairwise(found))
        assert gap <= 1 + -(-(total - min(limit, total)) // max(1, min(limit, 8) - 1))


@given(
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=100),
    limit=st.integers(1, 3000),
    part=st.sampled_from([1, 7, 512]),
    most=st.sampled_from([1, 4, 64]),
)
def test_blocks_of_unknown_length_give_all_that_is_asked(sizes, limit, part, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tether.data.features.selection.MOST_BLOCKS", most)
        found = numbers(Numbers(sizes, known=False), limit=limit, part_rows=part)
        assert len(found) == len(set(found)) == min(limit, sum(sizes))
        # What was read before can be passed over, and the rest is the same.
        steps = []
        for piece in divide(Numbers(sizes, known=False), limit=limit, part_rows=part):
            read = [int(row.key) for row in piece.read(piece.blocks()[0])]
            assert len(read) == piece.rows <= part
            steps.append((piece.identity, piece.steps, read))
        rest = []
        for at, piece in enumerate(divide(Numbers(sizes, known=False), limit=limit, part_rows=part)):
            assert piece.identity == steps[at][0]
            if at % 2:
                piece.pass_over(steps[at][1])
                rest += steps[at][2]
            else:
                rest += [int(row.key) for row in piece.read(piece.blocks()[0])]
        assert rest == found


def test_a_limit_is_shared_among_blocks_that_lie_evenly():
    source = Numbers([100] * 200, known=False)
    found = numbers(source, limit=640)
    assert len(set(source.opened)) == 64
    assert max(found) > 19_000
    assert len(found) == 640


def test_a_long_block_is_read_once():
    """A tar is a stream: what was read is not passed over again for the next part."""
    source = Numbers([2000], known=False)
    assert len(numbers(source, limit=10_000)) == 2000
    assert len(source.opened) == 1


def test_a_walk_without_an_end_stops(tmp_path):
    """Parts that nobody reads do not come for ever."""
    assert len(list(Walk(Numbers([5, 5], known=False), limit=4, part_rows=512))) == 1
