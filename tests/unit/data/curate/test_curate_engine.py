"""The engine under the steps: passes, columns, rewriting, flags, forms of output, and whatever strays into a pool."""

from __future__ import annotations

import csv
import datetime
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.csv import read_csv

from engine_steps import Marks, Once, Shorter, Twice, Upper, Without, kept, recipe, texts_of, write_pool
from tables import Listed, contents, rows_of
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data import open_source
from tether.data.curate import ExactDuplicates, MetaClipCurator
from tether.data.curate.engine.hashing import row_keys
from tether.data.curate.engine.plan import Pass, passes_of
from tether.data.curate.engine.run import curate
from tether.data.curate.pools.opening import SamplePool, open_pool
from tether.data.curate.pools.pool import explode
from tether.data.curate.pools.source import SourcePool


def side(folder: Path, name: str) -> list[dict]:
    return [row for path in sorted((folder / name).iterdir()) for row in read_csv(path).to_pylist()]


def test_neighbours_share_a_reading():
    plain, pool_step, upper = Without("x"), Once(), Upper("x")
    assert passes_of(recipe(plain, upper, plain), keys_unique=True) == (Pass((0, 1, 2), None),)
    assert passes_of(recipe(plain), keys_unique=False) == (Pass((), None), Pass((0,), None))
    assert passes_of(recipe(plain, pool_step, upper, pool_step, plain), keys_unique=False) == (
        Pass((0,), 1),
        Pass((1, 2), 3),
        Pass((3, 4), None),
    )


def test_each_pair_is_asked_about_once(pool, tmp_path):
    logs = [tmp_path / "first", tmp_path / "second"]
    steps = recipe(Without("owl", logs[0]), Once(), Without("zebra", logs[1]), Once())
    manifest = curate(pool, steps=steps, out=tmp_path / "out")
    asked = [log.read_text().split("\n")[:-1] for log in logs]
    for log, number in zip(asked, (0, 2), strict=True):
        assert len(log) == len(set(log)) == manifest["by_step"][number]["in"]
    ins = [step["in"] for step in manifest["by_step"]]
    assert ins == [manifest["pairs"]["good"], *(step["kept"] for step in manifest["by_step"][:-1])]
    assert manifest["by_step"][1]["report"]["texts"] == manifest["by_step"][1]["kept"]


def test_steps_of_the_caller_are_left_alone(pool, tmp_path):
    step = Once()
    first = curate(pool, steps=recipe(step), out=tmp_path / "a")
    assert step.report() == {"texts": 0}
    assert curate(pool, steps=recipe(step), out=tmp_path / "b")["by_step"] == first["by_step"]


def test_rewritten_words_are_seen_written_and_listed(pool, tmp_path):
    steps = recipe(Without("owl"), Upper("fox"), Once(), Without("FOX red"), Upper("blue"))
    manifest = curate(pool, steps=steps, out=tmp_path / "out")
    rows = kept(tmp_path / "out")
    texts = [text for row in rows for text in row["captions"] or ()]
    assert len(texts) == len(set(texts))
    assert not any("owl" in text or "fox" in text or "blue" in text or "FOX red" in text for text in texts)
    assert any("FOX BLUE" in text for text in texts)
    lost = side(tmp_path / "out", "dropped")
    assert {row["reason"] for row in lost} == {"says owl", "the text stands at another key", "says FOX red"}
    assert all("FOX red" in row["text"] for row in lost if row["reason"] == "says FOX red")
    assert not any("FOX" in row["text"] for row in lost if row["reason"] == "says owl")
    upper = manifest["by_step"][1]
    assert upper["kind"] == "rewriter"
    assert 0 < upper["rewritten"] < upper["in"] == upper["kept"]
    assert all(each["new"] == each["text"].replace("fox", "FOX") for each in upper["examples"]["rewritten"])


def test_several_texts_become_captions(pool, tmp_path):
    manifest = curate(pool, steps=recipe(Without("owl"), Twice(), Upper("red"), Marks("!")), out=tmp_path / "out")
    before = {index: row for index, row in enumerate(texts_of(200)) if row is None or any("owl" not in t for t in row)}
    rows = kept(tmp_path / "out")
    assert len(rows) == len(before)
    for row, given in zip(rows, before.values(), strict=True):
        expected = [new.replace("red", "RED") for text in given or () if "owl" not in text
                    for new in ([text] if len(text) < 4 else [text, f"{text}!"])]  # fmt: skip
        assert row["captions"] == expected
    flagged = side(tmp_path / "out", "flagged")
    assert [row["text"] for row in flagged] == [text for row in rows for text in row["captions"] if "!" in text]
    assert manifest["by_step"][3]["labels"] == {"!": len(flagged)}
    assert manifest["pairs"]["kept"] == manifest["by_step"][1]["kept"]
    with pytest.raises(InputError, match="without: cannot follow twice, which gives several captions"):
        curate(pool, steps=recipe(Twice(), Without("owl")), out=tmp_path / "none")


def test_a_column_of_texts_becomes_one_of_lists_for_several(tmp_path):
    path = write_pool(tmp_path / "pool.parquet", ["red fox", None, "owl"])
    curate(open_pool(path), steps=recipe(Twice()), out=tmp_path / "out")
    assert [row["captions"] for row in kept(tmp_path / "out")] == [["red fox", "red fox!"], [], ["owl"]]
    curate(open_pool(path), steps=recipe(Upper("fox")), out=tmp_path / "one")
    assert [row["captions"] for row in kept(tmp_path / "one")] == ["red FOX", None, "owl"]


def test_flags_drop_nothing_and_name_what_is_kept(pool, tmp_path):
    steps = recipe(Marks("zebra"), Without("owl"), Once(), Upper("zebra"), Marks("ZEBRA"))
    manifest = curate(pool, steps=steps, out=tmp_path / "out")
    texts = [text for row in kept(tmp_path / "out") for text in row["captions"] or ()]
    flagged = side(tmp_path / "out", "flagged")
    first = [row for row in flagged if row["label"] == "zebra"]
    assert sorted(row["text"] for row in first) == sorted(text for text in texts if "ZEBRA" in text)
    assert [row["score"] for row in first] == [len(row["text"]) for row in first]
    assert manifest["by_step"][0]["labels"] == {"zebra": len(first)} == {"zebra": len(flagged) // 2}
    assert manifest["by_step"][0]["flagged"] > len(first)
    assert manifest["by_step"][0]["kept"] == manifest["by_step"][0]["in"]
    without = curate(pool, steps=recipe(Without("owl"), Once(), Upper("zebra")), out=tmp_path / "b")
    assert without["rows_sha256"] == manifest["rows_sha256"]


@pytest.mark.parametrize("kind", ["parquet", "source"])
def test_steps_read_images_and_columns(tmp_path, kind):
    path = write_pool(tmp_path / "pool.parquet", texts_of(200))
    pool = open_pool(path) if kind == "parquet" else SourcePool(open_source(path))
    manifest = curate(pool, steps=recipe(Without("owl"), Shorter(100, "book")), out=tmp_path / "out")
    rows = kept(tmp_path / "out")
    sizes = [len(row["image"]["bytes"]) for row in rows]
    assert sizes == [4 + i for i, row in enumerate(texts_of(200))
                     if i % 3 == 1 and i < 96 and any("owl" not in text for text in row or [""])]  # fmt: skip
    assert manifest["by_step"][1]["in"] == manifest["by_step"][0]["kept"]
    counts = manifest["licences"]["values"]
    assert counts == {"": {"pool": 100, "kept": sum(s % 2 for s in sizes)},
                      "cc-by": {"pool": 100, "kept": sum(s % 2 == 0 for s in sizes)}}  # fmt: skip


def test_missing_columns_are_named_at_the_door(tmp_path):
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "pool.parquet")
    with pytest.raises(InputError, match=r"shorter: needs images, which .* does not have; known: caption"):
        curate(open_pool(str(tmp_path / "pool.parquet")), steps=recipe(Shorter(1, "web")), out=tmp_path / "out")
    rows = [Row("a", b"x", ("a",), {"source": "web"})]
    with pytest.raises(InputError, match="needs a column 'origin'"):
        curate(SourcePool(Listed(rows)), steps=recipe(Shorter(1, "web")), out=tmp_path / "out")
    with pytest.raises(InputError, match="int: expected a step that keeps, maps, flags or adds columns"):
        curate(open_pool(str(tmp_path / "pool.parquet")), steps=[("int", 3)], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_as_bytes_structs_and_paths(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12345")
    for image in (
        pa.array([b"12345", None, b"123456789"]),
        pa.array([{"bytes": b"12345", "path": None}, None, {"bytes": None, "path": "none.png"}]),
        pa.array(
            [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": None}, {"bytes": b"123456789", "path": "a"}]
        ),
        pa.array(["a.png", None, "none.png"]),
    ):
        pq.write_table(
            pa.table({"image": image, "caption": list("abc"), "origin": ["x"] * 3}), tmp_path / "pool.parquet"
        )
        out = tmp_path / f"out {image.type}{image[0]}"[:60].replace("/", "")
        curate(open_pool(str(tmp_path / "pool.parquet")), steps=recipe(Shorter(6, "x")), out=out)
        assert [row["caption"] for row in kept(out)] == ["a"]


def test_a_large_image_is_read_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_BYTES", 1_000)
    path = write_pool(tmp_path / "pool.parquet", texts_of(200))
    pool = open_pool(path)
    light = [len(rows.keys) for rows in pool.read(0, columns="captions")]
    heavy = [len(rows.keys) for rows in pool.read(0, columns="captions", extra=("image",))]
    assert sum(light) == sum(heavy) == 200
    assert len(heavy) > len(light)


def test_a_large_row_group_is_not_held_at_once(tmp_path):
    noise = np.random.default_rng(0)
    table = pa.table({"caption": ["red"] * 40_000, "image": [noise.bytes(1_000) for _ in range(40_000)]})
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=40_000)
    del table
    pool = open_pool(str(tmp_path / "pool.parquet"))
    before, most = pa.total_allocated_bytes(), 0
    for rows in pool.read(0, columns="all", extra=("image",)):
        most = max(most, pa.total_allocated_bytes() - before)
        del rows
    assert most < 20_000_000


def test_tars_hold_the_same_rows(pool, tmp_path):
    steps = recipe(Without("owl"), Upper("red"))
    first = curate(pool, steps=steps, out=tmp_path / "a")
    second = curate(pool, steps=steps, out=tmp_path / "b", written_as="webdataset")
    assert first["rows_sha256"] == second["rows_sha256"]
    assert [shard["file"].replace("parquet", "tar") for shard in first["shards"]] == [
        s["file"] for s in second["shards"]
    ]
    rows = kept(tmp_path / "a")
    source = open_source(str(tmp_path / "b"))
    read = rows_of(source)
    assert [list(row.texts) for row in read] == [row["captions"] or [] for row in rows]
    assert [row.image for row in read] == [row["image"]["bytes"] for row in rows]
    assert [(row.meta["origin"], row.meta["license"]) for row in read] == [(r["origin"], r["license"]) for r in rows]
    again = curate(pool, steps=steps, out=tmp_path / "c", written_as="webdataset")
    assert again == second
    assert contents(tmp_path / "c") == contents(tmp_path / "b")


def test_tars_of_any_source_and_any_cell(tmp_path):
    rows = [
        Row("a/b.c", b"\xff\xd8\xffjpeg", ("one\ntwo", " three "), {"n": 1, "deep": {"x": [1, 2]}}),
        Row("none", None, ("only words",), {}),
        Row("silent", b"RIFF....WEBP", (), {}),
    ]
    curate(SourcePool(Listed(rows)), steps=recipe(Without("nothing")), out=tmp_path / "out", written_as="webdataset")
    with tarfile.open(tmp_path / "out" / "part-000000.tar") as file:
        names = file.getnames()
        data = {name: file.extractfile(name).read() for name in names}
    assert [Path(name).suffix for name in names] == [".jpg", ".txt", ".json", ".txt", ".json", ".webp", ".txt", ".json"]
    assert data["000000-000000.txt"] == b"one two\n three "
    assert json.loads(data["000000-000000.json"]) == {"captions": ["one\ntwo", " three "], "deep": {"x": [1, 2]},
                                                      "key": "a/b.c", "n": 1}  # fmt: skip
    table = pa.table(
        {"caption": ["x"], "image": [b"\x89PNG"], "thumb.nail": [b"\x00"], "when": [datetime.date(2020, 1, 1)]}
    )
    pq.write_table(table, tmp_path / "pool.parquet")
    pool = open_pool(str(tmp_path / "pool.parquet"))
    curate(pool, steps=recipe(Without("nothing")), out=tmp_path / "bytes", written_as="webdataset")
    with tarfile.open(tmp_path / "bytes" / "part-000000.tar") as file:
        assert file.getnames() == ["000000-000000.png", "000000-000000.txt", "000000-000000.thumb_nail.bin",
                                   "000000-000000.json"]  # fmt: skip


def test_captions_of_any_writing_and_length(tmp_path):
    texts = [
        "\u05e9\u05dc\u05d5\u05dd red",
        "e\u0301 fox\u200d",
        "red " * 250_000,
        "",
        "\U0001f98a",
        "red\x00fox",
        None,
        'a,"b"\nc',
    ]
    pq.write_table(pa.table({"caption": texts}), tmp_path / "pool.parquet")
    pool = open_pool(str(tmp_path / "pool.parquet"))
    manifest = curate(pool, steps=recipe(Upper("red"), Without("fox"), Once()), out=tmp_path / "out")
    assert [row["caption"] for row in kept(tmp_path / "out")] == [
        text and text.replace("red", "RED") for text in texts if text is None or "fox" not in text
    ]
    lost = side(tmp_path / "out", "dropped")
    assert [row["text"] for row in lost] == [text.replace("red", "RED") for text in texts if text and "fox" in text]
    assert max(len(each["new"]) for each in manifest["by_step"][0]["examples"]["rewritten"]) <= 300
    curate(pool, steps=recipe(Upper("red")), out=tmp_path / "tar", written_as="webdataset")
    source = open_source(str(tmp_path / "tar"))
    read = [row.meta["captions"] for block in source.blocks() for row in source.read(block)]
    assert read == [[text.replace("red", "RED")] if text is not None else [] for text in texts]


def test_a_sample_is_spread_over_the_pool(pool):
    sample = SamplePool(pool, rows=10)
    assert sample.pieces() == 5
    keys = [
        key for piece in range(5) for rows in sample.read(piece, columns="captions") for key in rows.keys.to_pylist()
    ]
    assert keys == [f"pool.parquet:{index}" for start in range(0, 200, 40) for index in (start, start + 1)]
    whole = SamplePool(pool, rows=10_000)
    found = [row for piece in range(5) for rows in whole.read(piece, columns="all") for row in rows.keys.to_pylist()]
    assert len(found) == 200


def test_examples_are_the_same_however_the_pool_is_cut(tmp_path, monkeypatch):
    path = write_pool(tmp_path / "pool.parquet", texts_of(30), group_rows=30)
    first = curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "a")
    shown = first["by_step"][0]["examples"]["refused"]
    assert 0 < len(shown) <= 8
    assert all("owl" in each["text"] for each in shown)
    assert list(shown[0]) == ["key", "text"]
    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_ROWS", 7)
    assert curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "b") == first


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
    manifest = curate(pool, steps=recipe(ExactDuplicates(of="image")), out=tmp_path / "out")
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
        manifest = curate(open_pool(str(path)), steps=recipe(ExactDuplicates(of="image")), out=out,
                          written_as=form)  # fmt: skip
        assert manifest["rows"] == {"good": 50, "bad": 1, "kept": 50}
        assert manifest["licences"]["values"] == {"cc": {"pool": 50, "kept": 50}}


def test_licences_of_lists_and_structs_are_counted(tmp_path):
    for name, values in (("lists", [["cc", "by"], None, ["cc", "by"]]), ("structs", [{"n": 1}, None, {"n": 1}])):
        path = write(tmp_path / f"{name}.parquet", caption=["red"] * 3, license=values)
        manifest = curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / name)
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
    manifest = curate(SourcePool(Listed(rows)), steps=recipe(Without("owl")), out=tmp_path / "out")
    assert manifest["rows"] == {"good": 1, "bad": 5, "kept": 1}
    found = dict(errors(tmp_path / "out"))
    assert list(found) == ["key\\udcff", "meta", "file", "gone", "unread\\ud83d"]
    assert found["key\\udcff"].startswith("key: not UTF-8")
    assert found["meta"].startswith("meta: not UTF-8")
    assert found["file"].endswith("\\udcff.png: no such file")


def test_keys_of_bytes_that_are_not_text(tmp_path):
    path = write(tmp_path / "pool.parquet", key=[b"a", b"\xff"], caption=["red", "blue"])
    manifest = curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "out")
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


def test_bad_rows_of_one_key_are_all_listed(tmp_path):
    path = write(tmp_path / "pool.parquet", key=["a", "a", "b"], caption=[b"\xff", b"\xfe", b"red"])
    manifest = curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "out")
    assert manifest["rows"] == {"good": 1, "bad": 2, "kept": 1}
    assert errors(tmp_path / "out") == [("a", "a caption is not UTF-8")] * 2


def test_a_null_in_a_list_is_no_caption(tmp_path):
    lists = [["red", None, "blue"], [None], [None, None], ["fox", None]]
    path = write(tmp_path / "pool.parquet", caption=lists)
    manifest = curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "out")
    assert manifest["pairs"] == {"good": 5, "kept": 5}
    table = pq.read_table(tmp_path / "out" / "part-000000.parquet")
    assert table["caption"].to_pylist() == [["red", "blue"], [], [], ["fox"]]


def test_a_second_image_is_a_member_of_bytes(tmp_path):
    path = write(tmp_path / "pool.parquet", caption=["red"], image=[b"\x89PNG"], mask=[{"bytes": b"\0", "path": "m"}])
    curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "out", written_as="webdataset")
    with tarfile.open(tmp_path / "out" / "part-000000.tar") as file:
        opened = {name.partition(".")[2]: file.extractfile(name) for name in file.getnames()}
        data = {ending: member.read() for ending, member in opened.items() if member is not None}
    assert data["mask.bin"] == b"\0"
    assert json.loads(data["json"])["mask"] == {"path": "m"}
