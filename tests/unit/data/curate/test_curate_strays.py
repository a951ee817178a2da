"""Curation of what strays: keys with numbers, damage, half characters, lists, lost and left-over files."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine_steps import Broken, Without
from tables import Listed
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data.curate import ExactDuplicates, MetaClipCurator
from tether.data.curate.engine.hashing import row_keys
from tether.data.curate.engine.run import curate
from tether.data.curate.engine.shard_writer import STATE
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import explode
from tether.data.curate.pools.source import SourcePool


def write(path: Path, group_rows: int = 50, **columns) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=group_rows, compression="zstd", use_dictionary=False)
    return str(path)


def errors(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [(line["key"], line["error"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("second", [["blue"], ["blue", "owl"], []])
def test_rows_whose_own_keys_end_in_a_number_are_rows_of_their_own(tmp_path, second):
    path = write(tmp_path / "pool.parquet", key=["doc#0", "doc#1"], caption=[["red"], second], image=[b"1", b"1"])
    pool = open_pool(path)
    (rows,) = pool.read(0, columns="captions")
    pairs, row = explode(rows)
    assert row_keys(pairs.column("key")).to_pylist() == [["doc#0", "doc#1"][number] for number in row]
    manifest = curate(pool, steps=[("exact", ExactDuplicates(of="image"))], out=tmp_path / "out")
    assert manifest["rows"] == {"good": 2, "bad": 0, "kept": 1}
    (key,) = pq.read_table(tmp_path / "out" / "part-000000.parquet")["key"].to_pylist()
    assert key in ("doc#0", "doc#1")


def test_a_damaged_row_group_and_a_step_that_reads_columns(tmp_path):
    columns = {"caption": ["red fox"] * 100, "image": [b"%d" % n for n in range(100)], "license": ["cc"] * 100}
    path = Path(write(tmp_path / "pool.parquet", **columns))
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    start, size = column.data_page_offset, column.total_compressed_size
    path.write_bytes(raw[:start] + b"\xff" * size + raw[start + size :])
    for form in ("parquet", "webdataset"):
        out = tmp_path / form
        manifest = curate(open_pool(str(path)), steps=[("exact", ExactDuplicates(of="image"))], out=out,
                          written_as=form)  # fmt: skip
        assert manifest["rows"] == {"good": 50, "bad": 1, "kept": 50}
        assert manifest["licences"]["values"] == {"cc": {"pool": 50, "kept": 50}}


def test_licences_of_lists_and_structs_are_counted(tmp_path):
    for name, values in (("lists", [["cc", "by"], None, ["cc", "by"]]), ("structs", [{"n": 1}, None, {"n": 1}])):
        path = write(tmp_path / f"{name}.parquet", caption=["red"] * 3, license=values)
        manifest = curate(open_pool(path), steps=[("without", Without("owl"))], out=tmp_path / name)
        counted = {json.dumps(values[0]): {"pool": 2, "kept": 2}, "": {"pool": 1, "kept": 1}}
        assert manifest["licences"]["values"] == counted


def test_a_run_whose_steps_drop_everything_finishes(tmp_path):
    pool = open_pool(write(tmp_path / "pool.parquet", caption=["red fox"] * 5))
    steps = [("without", Without("red")), ("metaclip", MetaClipCurator(entries=["red"], t=20))]
    manifest = curate(pool, steps=steps, out=tmp_path / "out")
    assert manifest["rows"] == {"good": 5, "bad": 0, "kept": 0}
    assert manifest["by_step"][1]["report"] == {}


def test_half_characters_make_a_row_bad_and_not_the_run(tmp_path):
    odd = tmp_path / "\udcff.png"
    rows = [
        Row("good", b"x", ("red",), {"a": "\U0001f600"}),
        Row("key\udcff", b"x", ("red",)),
        Row("meta", b"x", ("red",), {"deep": ["\ud83d"]}),
        Row("file", odd, ("red",)),
        Row("gone", tmp_path / "gone\udcff.png", ("red",)),
        Row("unread\ud83d", None, bad="\udcff: cannot be read"),
    ]
    manifest = curate(SourcePool(Listed(rows)), steps=[("without", Without("owl"))], out=tmp_path / "out")
    assert manifest["rows"] == {"good": 1, "bad": 5, "kept": 1}
    found = dict(errors(tmp_path / "out"))
    assert list(found) == ["key\\udcff", "meta", "file", "gone", "unread\\ud83d"]
    assert found["key\\udcff"].startswith("key: not UTF-8")
    assert found["meta"].startswith("meta: not UTF-8")
    assert found["file"].endswith("\\udcff.png: no such file")


def test_keys_of_bytes_that_are_not_text(tmp_path):
    path = write(tmp_path / "pool.parquet", key=[b"a", b"\xff"], caption=["red", "blue"])
    manifest = curate(open_pool(path), steps=[("without", Without("owl"))], out=tmp_path / "out")
    assert manifest["rows"] == {"good": 1, "bad": 1, "kept": 1}
    assert errors(tmp_path / "out") == [("pool.parquet:1", "the key is not UTF-8")]


def test_dropped_text_does_not_wait_for_the_end_of_the_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_ROWS", 10)
    texts = [f'owl, "{number}"\n' + "x" * 100_000 for number in range(60)]
    path = write(tmp_path / "pool.parquet", caption=texts)
    held = []

    class Watching(Without):
        def keep(self, rows):
            held.append(pa.total_allocated_bytes())
            return super().keep(rows)

    curate(open_pool(path), steps=[("without", Watching("owl"))], out=tmp_path / "out")
    assert max(held) - held[0] < 4_000_000  # of 6 MB dropped
    with (tmp_path / "out" / "dropped" / "part-000000.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["text"] for row in read] == texts
    assert not (tmp_path / "out" / "flagged").exists()


def test_long_captions_of_a_source_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.data.curate.pools.source.BATCH_BYTES", 1000)
    pool = SourcePool(Listed([Row(str(number), None, ("x" * 400,)) for number in range(9)]))
    assert [len(rows.keys) for rows in pool.read(0, columns="captions")] == [3, 3, 3]


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    pool, steps = open_pool(write(tmp_path / "pool.parquet", caption=["red"])), [("broken", Broken())]
    with pytest.raises(KeyError):
        curate(pool, steps=steps, out=tmp_path / "out")
    left = tmp_path / "out" / STATE / "writing-part-000000-0123.dropped"
    left.write_bytes(b"half")
    with pytest.raises(KeyError):
        curate(pool, steps=steps, out=tmp_path / "out")
    assert not left.exists()


def test_an_abandoned_shard_is_removed_when_it_cannot_be_closed(tmp_path, monkeypatch):
    class Failing(Without):
        def keep(self, rows):
            if rows.column("text")[0].as_py() == "fox":
                raise KeyError("a mistake")
            return super().keep(rows)

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_ROWS", 2)
    pool = open_pool(write(tmp_path / "pool.parquet", caption=["red", "owl", "fox"]))
    with monkeypatch.context() as patch:
        patch.setattr("tether.data.curate.engine.shard_writer._Parquet.close", full)
        with pytest.raises(KeyError, match="a mistake"):
            curate(pool, steps=[("failing", Failing("owl"))], out=tmp_path / "out")
    assert not list((tmp_path / "out" / STATE).glob("writing-*"))


def test_bad_rows_of_one_key_are_all_listed(tmp_path):
    path = write(tmp_path / "pool.parquet", key=["a", "a", "b"], caption=[b"\xff", b"\xfe", b"red"])
    manifest = curate(open_pool(path), steps=[("without", Without("owl"))], out=tmp_path / "out")
    assert manifest["rows"] == {"good": 1, "bad": 2, "kept": 1}
    assert errors(tmp_path / "out") == [("a", "a caption is not UTF-8")] * 2


def test_a_null_in_a_list_is_no_caption(tmp_path):
    lists = [["red", None, "blue"], [None], [None, None], ["fox", None]]
    path = write(tmp_path / "pool.parquet", caption=lists)
    manifest = curate(open_pool(path), steps=[("without", Without("owl"))], out=tmp_path / "out")
    assert manifest["pairs"] == {"good": 5, "kept": 5}
    table = pq.read_table(tmp_path / "out" / "part-000000.parquet")
    assert table["caption"].to_pylist() == [["red", "blue"], [], [], ["fox"]]


def test_a_finished_folder_that_lost_a_shard_is_refused(tmp_path):
    pool, steps = open_pool(write(tmp_path / "pool.parquet", caption=["red"])), [("without", Without("owl"))]
    curate(pool, steps=steps, out=tmp_path / "out")
    (tmp_path / "out" / "part-000000.parquet").unlink()
    with pytest.raises(InputError, match=r"part-000000\.parquet: no such file, though manifest\.json names it"):
        curate(pool, steps=steps, out=tmp_path / "out")


def test_a_second_picture_is_a_member_of_bytes(tmp_path):
    path = write(tmp_path / "pool.parquet", caption=["red"], image=[b"\x89PNG"], mask=[{"bytes": b"\0", "path": "m"}])
    curate(open_pool(path), steps=[("without", Without("owl"))], out=tmp_path / "out", written_as="webdataset")
    with tarfile.open(tmp_path / "out" / "part-000000.tar") as file:
        opened = {name.partition(".")[2]: file.extractfile(name) for name in file.getnames()}
        data = {ending: member.read() for ending, member in opened.items() if member is not None}
    assert data["mask.bin"] == b"\0"
    assert json.loads(data["json"])["mask"] == {"path": "m"}
