"""The engine under the steps: passes, columns, rewriting, flags, forms of output, workers that die."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

import engine_steps
from engine_steps import Broken, Deadly, Marks, Once, Shorter, Twice, Upper, Without
from tables import Listed, contents, rows_of
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data import open_source
from tether.data.curate import MetaClipCurator
from tether.data.curate.engine.plan import Pass, Plan, passes_of
from tether.data.curate.engine.run import curate
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import group
from tether.data.curate.pools.sample import SamplePool
from tether.data.curate.pools.source import SourcePool

WORDS = ["red", "blue", "fox", "owl", "zebra"]


def texts_of(rows: int, *, seed: int = 0) -> list[list[str] | None]:
    rng = np.random.default_rng(seed)
    found: list[list[str] | None] = []
    for _ in range(rows):
        captions = [" ".join(rng.choice(WORDS, size=rng.integers(1, 4))) for _ in range(rng.integers(0, 4))]
        found.append(captions or None)
    return found


def write(path: Path, texts: list, *, keys: list[str] | None = None, group_rows: int = 20) -> str:
    count = len(texts)
    table = pa.table(
        {
            **({} if keys is None else {"key": keys}),
            "image": [{"bytes": b"\x89PNG" + b"x" * index, "path": None} for index in range(count)],
            "captions": texts,
            "origin": [("web", "book", None)[index % 3] for index in range(count)],
            "license": [("cc-by", None)[index % 2] for index in range(count)],
        }
    )
    pq.write_table(table, path, row_group_size=group_rows)
    return str(path)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 40})
    return open_pool(write(tmp_path / "pool.parquet", texts_of(200)))


def kept(folder: Path) -> list[dict]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return [row for shard in manifest["shards"] for row in pq.read_table(folder / shard["file"]).to_pylist()]


def side(folder: Path, name: str) -> list[dict]:
    return [row for path in sorted((folder / name).iterdir()) for row in csv.read_csv(path).to_pylist()]


def recipe(*parts: object) -> list:
    return [(type(part).__name__.lower(), part) for part in parts]


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
    path = write(tmp_path / "pool.parquet", ["red fox", None, "owl"])
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
def test_steps_read_pictures_and_columns(tmp_path, kind):
    path = write(tmp_path / "pool.parquet", texts_of(200))
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
    with pytest.raises(InputError, match="int: expected a step that keeps, maps or flags"):
        curate(open_pool(str(tmp_path / "pool.parquet")), steps=[("int", 3)], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_as_bytes_structs_and_paths(tmp_path):
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


def test_a_large_picture_is_read_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_BYTES", 1_000)
    path = write(tmp_path / "pool.parquet", texts_of(200))
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


@pytest.mark.distributed
def test_workers_give_the_same_files(pool, tmp_path):
    steps = recipe(Without("owl"), Once(), Upper("fox"), Marks("red"), MetaClipCurator(entries=["FOX", "red"], t=20))
    seen: list[tuple[int, int | None]] = []
    counted: dict[str, tuple[int, int]] = {}
    alone = curate(pool, steps=steps, out=tmp_path / "alone")
    manifest = curate(
        pool,
        steps=steps,
        out=tmp_path / "many",
        workers=3,
        on_progress=lambda done, total: seen.append((done, total)),
        on_counts=lambda name, asked, left: counted.update({name: (asked, left)}),
    )
    assert manifest == alone
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    assert seen[0] == (0, 15)
    assert seen[-1] == (15, 15)
    assert counted["without"] == (alone["by_step"][0]["in"], alone["by_step"][0]["kept"])
    assert counted["metaclipcurator"] == (alone["by_step"][4]["in"], alone["by_step"][4]["kept"])
    assert 0 < counted["marks"][1] < counted["marks"][0]


@pytest.mark.distributed
def test_a_worker_that_dies_loses_and_repeats_nothing(pool, tmp_path):
    marks, log = tmp_path / "marks", tmp_path / "log"
    marks.mkdir()
    steps = recipe(Deadly("pool.parquet:130", marks), Once(), Without("owl", log))
    whole = curate(pool, steps=steps, out=tmp_path / "whole")
    log.unlink()
    for name in ("one", "two"):
        (marks / name).touch()
    assert curate(pool, steps=steps, out=tmp_path / "out", workers=2) == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(marks.iterdir())
    keys = log.read_text().split()
    assert len(keys) == len(set(keys))


@pytest.mark.distributed
def test_a_piece_that_kills_every_worker_is_given_up(pool, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    for name in range(3):
        (marks / str(name)).touch()
    steps = recipe(Deadly("pool.parquet:130", marks))
    with pytest.raises(
        InputError, match=r'3 workers died over piece 3; is there enough memory.* if __name__ == "__main__"'
    ):
        curate(pool, steps=steps, out=tmp_path / "out", workers=2)
    curate(pool, steps=steps, out=tmp_path / "out", workers=2)
    curate(pool, steps=steps, out=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.distributed
def test_errors_of_workers_arrive(pool, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed at piece \d:.*KeyError: 'a mistake'"):
        curate(pool, steps=recipe(Broken()), out=tmp_path / "out", workers=2)
    bad = write(tmp_path / "bad.parquet", pa.array([b"red"] * 30 + [b"\xff"]))
    with pytest.raises(InputError, match=r"bad row 'bad\.parquet:30': a caption is not UTF-8"):
        curate(open_pool(bad), steps=recipe(Without("nothing")), out=tmp_path / "bad", workers=2, strict=True)


@pytest.mark.distributed
def test_a_killed_ray_worker_loses_and_repeats_nothing(pool, tmp_path, ray):
    marks, log = tmp_path / "marks", tmp_path / "log"
    marks.mkdir()
    steps = recipe(Deadly("pool.parquet:130", marks), Without("owl", log))
    whole = curate(pool, steps=steps, out=tmp_path / "whole")
    log.unlink()
    (marks / "one").touch()
    assert curate(pool, steps=steps, out=tmp_path / "out", engine="ray") == whole
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(marks.iterdir())
    keys = log.read_text().split()
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.distributed)])
def test_hugging_face_and_parquet_give_the_same_rows(tmp_path, engine, request):
    if engine == "ray":
        request.getfixturevalue("ray")
    datasets = pytest.importorskip("datasets")
    texts = [row or ["owl"] for row in texts_of(120)]
    path = write(tmp_path / "pool.parquet", texts, keys=[f"k{index}" for index in range(120)])
    table = pq.read_table(path)
    datasets.Dataset.from_dict(table.to_pydict()).save_to_disk(str(tmp_path / "hf"), max_shard_size="2KB")
    metaclip = MetaClipCurator(entries=["fox", "red", "zebra"], t=15)
    steps = recipe(Without("owl"), Upper("blue"), Shorter(100, "book"), metaclip)
    found = []
    sources = [("a", path), ("b", str(tmp_path / "hf"))]
    for name, source in sources if engine == "local" else sources[1:]:
        manifest = curate(open_pool(source), steps=steps, out=tmp_path / f"out {name}", engine=engine, seed=4)
        found.append((manifest["by_step"], manifest["rows"], manifest["licences"]))
        rows = kept(tmp_path / f"out {name}")
        found[-1] += ([(row["key"], row.get("captions") or row.get("texts")) for row in rows],)
    if engine == "ray":
        manifest = curate(open_pool(path), steps=steps, out=tmp_path / "alone", seed=4)
        rows = [(row["key"], row["captions"]) for row in kept(tmp_path / "alone")]
        found.append((manifest["by_step"], manifest["rows"], manifest["licences"], rows))
    assert found[0] == found[1]
    assert found[0][3]


_LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from engine_steps import Once, Upper, Without
from tether.core.errors import TetherError
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import group
from tether.data.curate.engine.run import curate
if __name__ == "__main__":
    group.__kwdefaults__["rows"] = 50
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    steps = [("without", Without("owl")), ("once", Once()), ("upper", Upper("fox"))]
    try:
        curate(open_pool(sys.argv[1]), steps=steps, out=Path(sys.argv[2]), workers=2)
    except TetherError as error:
        sys.exit(str(error))
"""


@pytest.mark.distributed
def test_a_full_disk_leaves_whole_files_and_is_resumed_from(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = [rng.bytes(size) for size in [300] * 150 + [3_000] * 50]
    table = pa.table({"caption": [f"{'red' if i % 5 else 'owl'} fox {i}" for i in range(200)], "image": noise})
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=25)
    (tmp_path / "limited.py").write_text(_LIMITED)
    arguments = [tmp_path / "pool.parquet", tmp_path / "out", Path(engine_steps.__file__).parent]
    command = [sys.executable, str(tmp_path / "limited.py"), *map(str, arguments)]
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 50})
    pool = open_pool(str(tmp_path / "pool.parquet"))
    assert pool.pieces() == 4
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(r"part-\d+.parquet: could not be written: .*File too large; .* same command resumes", done.stderr)
    steps = [("without", Without("owl")), ("once", Once()), ("upper", Upper("fox"))]
    curate(pool, steps=steps, out=tmp_path / "whole")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".curate" not in path.parts]
    assert [path.name for path in written if path.suffix == ".parquet"]
    for path in written:
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(tmp_path / "out")).read_bytes()
    curate(pool, steps=steps, out=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_disappears_is_named_and_its_return_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 40})
    (tmp_path / "pool").mkdir()
    for name in "abc":
        write(tmp_path / "pool" / f"{name}.parquet", texts_of(60, seed=ord(name)))
    steps = recipe(Without("owl"), Once(), Upper("fox"))
    pool = open_pool(str(tmp_path / "pool"))
    work = Plan.work

    def losing(self, number, piece):
        if number == 1 and piece == 2:
            (tmp_path / "pool" / "b.parquet").rename(tmp_path / "b.parquet")
        return work(self, number, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "work", losing)
        with pytest.raises(InputError, match=r"b\.parquet: .*No such file"):
            curate(pool, steps=steps, out=tmp_path / "out")
    (tmp_path / "b.parquet").rename(tmp_path / "pool" / "b.parquet")
    curate(open_pool(str(tmp_path / "pool")), steps=steps, out=tmp_path / "out")
    curate(pool, steps=steps, out=tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


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
    path = write(tmp_path / "pool.parquet", texts_of(30), group_rows=30)
    first = curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "a")
    shown = first["by_step"][0]["examples"]["refused"]
    assert 0 < len(shown) <= 8
    assert all("owl" in each["text"] for each in shown)
    assert list(shown[0]) == ["key", "text"]
    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_ROWS", 7)
    assert curate(open_pool(path), steps=recipe(Without("owl")), out=tmp_path / "b") == first
