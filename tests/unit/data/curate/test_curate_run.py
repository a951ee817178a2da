"""Curation of whole pools: what is kept, dropped, skipped, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from tables import Listed, contents
from tether.core.errors import InputError, TetherError
from tether.core.hash_rng import hash_uniform
from tether.core.types import Row
from tether.data import open_source
from tether.data.curate import MetaClipCurator
from tether.data.curate.engine.plan import STATE, Plan
from tether.data.curate.engine.recipe import read_recipe
from tether.data.curate.engine.run import curate
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import explode, group
from tether.data.curate.pools.source import SourcePool

WORDS = ["red", "blue", "fox", "owl", "blue fox"]


def captions(rows: int, *, seed: int = 0) -> list[list[str] | None]:
    rng = np.random.default_rng(seed)
    weights = [0.55, 0.25, 0.1, 0.04, 0.06]
    words = ["red", "blue", "fox", "owl", "nothing"]
    found: list[list[str] | None] = []
    for _ in range(rows):
        texts = [" ".join(rng.choice(words, p=weights, size=rng.integers(1, 3))) for _ in range(rng.integers(0, 4))]
        found.append(texts or None)
    return found


def write(path, texts: Sequence, *, group_rows: int = 50, **columns) -> str:
    images = [{"bytes": b"\x89PNG %d" % index, "path": f"{index}.png"} for index in range(len(texts))]
    table = pa.table({"image": images, "captions": texts, "score": np.arange(len(texts)), **columns})
    pq.write_table(table, path, row_group_size=group_rows)
    return str(path)


def step(t: float = 20) -> tuple[str, MetaClipCurator]:
    return "metaclip", MetaClipCurator(entries=WORDS, t=t)


@pytest.fixture(autouse=True)
def small_pieces(request, monkeypatch):
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 100})
    if request.node.get_closest_marker("distributed"):
        return  # other processes would not see the smaller batches
    monkeypatch.setattr("tether.data.curate.pools.parquet.BATCH_ROWS", 32)
    monkeypatch.setattr("tether.data.curate.pools.source.BATCH_ROWS", 5)


def test_kept_dropped_and_counted_add_up_to_the_pool(tmp_path):
    texts = captions(430)
    pool = open_pool(write(tmp_path / "pool.parquet", texts))
    assert pool.pieces() == 5
    manifest = curate(pool, steps=[step()], out=tmp_path / "out", seed=3)

    pairs = {}
    for index, row in enumerate(texts):
        for place, text in enumerate(row or [None]):
            pairs[f"pool.parquet:{index}" + (f"#{place}" if row and len(row) > 1 else "")] = text
    curator = MetaClipCurator(entries=WORDS, t=20)
    whole = pa.record_batch({"key": list(pairs), "text": pa.array(list(pairs.values()), pa.string())})
    chance = curator.partial_fit(whole).keep(whole)
    kept = hash_uniform(pairs, seed=3, salt="0 metaclip") < chance
    expected: dict[int, list[str]] = {}
    for (key, text), good in zip(pairs.items(), kept, strict=True):
        if good:
            expected.setdefault(int(key.split(":")[1].split("#")[0]), []).append(text)

    parts = pa.concat_tables([pq.read_table(tmp_path / "out" / shard["file"]) for shard in manifest["shards"]])
    assert dict(zip(parts["score"].to_pylist(), parts["captions"].to_pylist(), strict=True)) == expected
    assert parts.schema.names == ["image", "captions", "score"]
    assert parts["image"][0].as_py()["bytes"] == b"\x89PNG %d" % parts["score"][0].as_py()
    again = open_source(str(tmp_path / "out"))
    assert {row.texts for block in again.blocks() for row in again.read(block)} == set(map(tuple, expected.values()))

    dropped = pa.concat_tables([csv.read_csv(path) for path in sorted((tmp_path / "out" / "dropped").iterdir())])
    reasons = dict(zip(dropped["key"].to_pylist(), dropped["reason"].to_pylist(), strict=True))
    for key, probability, good in zip(pairs, chance, kept, strict=True):
        reason = "no entry of the metadata stands in the caption" if probability == 0 else "thinned out"
        assert reasons.get(key) == (None if good else reason)
    assert manifest["rows"] == {"good": 430, "bad": 0, "kept": len(expected)}
    assert manifest["pairs"] == {"good": len(pairs), "kept": int(kept.sum())}
    counts = manifest["by_step"][0]
    assert counts["refused"] + counts["thinned_out"] + counts["kept"] == counts["in"] == len(pairs)
    assert counts["refused"] == int((chance == 0).sum())
    assert counts["report"]["unmatched"] == counts["refused"]


def test_again_changes_nothing_and_other_settings_are_refused(tmp_path):
    pool = open_pool(write(tmp_path / "pool.parquet", captions(200)))
    out = tmp_path / "out"
    first = curate(pool, steps=[step()], out=out)
    before = contents(out)
    assert curate(pool, steps=[step()], out=out) == first
    assert contents(out) == before
    with pytest.raises(InputError, match="another pool, of other steps or of another seed"):
        curate(pool, steps=[step(t=21)], out=out)
    with pytest.raises(InputError, match="another pool"):
        curate(pool, steps=[step()], out=out, seed=1)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"expected a new or empty folder, found thesis\.txt"):
        curate(pool, steps=[step()], out=strange)
    with pytest.raises(InputError, match="expected at least one"):
        curate(pool, steps=[], out=tmp_path / "none")


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 9])
def test_stopped_anywhere_it_goes_on_to_the_same_files(tmp_path, monkeypatch, stop):
    pool = open_pool(write(tmp_path / "pool.parquet", captions(430)))
    curate(pool, steps=[step()], out=tmp_path / "whole")
    done = []
    work = Plan.work

    def interrupted(self, number, piece):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append((number, piece))
        return work(self, number, piece)

    monkeypatch.setattr(Plan, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        curate(pool, steps=[step()], out=tmp_path / "out")
    assert (tmp_path / "out" / STATE).is_dir()
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InputError, match="another seed"):
        curate(pool, steps=[step()], out=tmp_path / "out", seed=9)
    again = []

    def watched(self, number, piece):
        again.append((number, piece))
        return work(self, number, piece)

    monkeypatch.setattr(Plan, "work", watched)
    curate(pool, steps=[step()], out=tmp_path / "out")
    assert not set(done) & set(again)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    pool = open_pool(write(tmp_path / "pool.parquet", captions(430)))
    curate(pool, steps=[step()], out=tmp_path / "whole")
    written = []
    write_table = pq.ParquetWriter.write_table

    def full(self, table, *arguments, **keywords):
        written.append(table.num_rows)
        if len(written) == 6:
            raise OSError(28, "No space left on device")
        return write_table(self, table, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(TetherError, match=r"could not be written: No space left .* same command resumes"):
            curate(pool, steps=[step()], out=tmp_path / "out")
    whole = contents(tmp_path / "whole")
    for path in (tmp_path / "out").glob("part-*"):
        assert path.read_bytes() == whole[path.name]
    curate(pool, steps=[step()], out=tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_killed_after_the_manifest_it_tidies_up(tmp_path, monkeypatch):
    pool = open_pool(write(tmp_path / "pool.parquet", captions(100)))
    with monkeypatch.context() as patch:
        patch.setattr("tether.data.curate.engine.run.shutil.rmtree", lambda *_, **__: None)
        first = curate(pool, steps=[step()], out=tmp_path / "out")
    assert (tmp_path / "out" / STATE).is_dir()
    assert curate(pool, steps=[step()], out=tmp_path / "out") == first
    assert not (tmp_path / "out" / STATE).exists()


def test_steps_count_what_the_ones_before_left(tmp_path):
    pool = open_pool(write(tmp_path / "pool.parquet", captions(430)))
    rare = ("rare", MetaClipCurator(entries=["fox", "owl"], t=1e9))
    manifest = curate(pool, steps=[rare, step(t=10)], out=tmp_path / "out")
    first, second = manifest["by_step"]
    assert second["in"] == first["kept"] == second["report"]["rows"]
    assert first["thinned_out"] == 0
    assert second["kept"] == manifest["pairs"]["kept"]
    texts = [text for shard in manifest["shards"] for row in pq.read_table(tmp_path / "out" / shard["file"])["captions"]
             for text in row.as_py()]  # fmt: skip
    assert all("fox" in text or "owl" in text for text in texts)


def test_strings_and_own_keys(tmp_path):
    texts = [row[0] if row else None for row in captions(120)]
    path = write(tmp_path / "pool.parquet", texts, key=[f"k{index}" for index in range(120)])
    manifest = curate(open_pool(path), steps=[step()], out=tmp_path / "out")
    table = pa.concat_tables([pq.read_table(tmp_path / "out" / shard["file"]) for shard in manifest["shards"]])
    assert {texts[int(key[1:])] for key in table["key"].to_pylist()} == set(table["captions"].to_pylist())
    assert manifest["rows"]["kept"] == manifest["pairs"]["kept"] == table.num_rows


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.binary())])
def test_bad_rows_are_named_and_skipped_or_stop(tmp_path, kind):
    values = [b"red", b"fox \xff", None, b"blue"]
    column = pa.array([[v] if v else v for v in values] if pa.types.is_list(kind) else values, kind)
    keys = pa.array(["a", "b", "c", None])
    path = write(tmp_path / "pool.parquet", column, key=keys)
    manifest = curate(open_pool(path), steps=[step()], out=tmp_path / "out")
    assert manifest["rows"] == {"good": 2, "bad": 2, "kept": 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
    assert {(line["key"], line["error"]) for line in lines} == {
        ("b", "a caption is not UTF-8"),
        ("pool.parquet:3", "the key is null"),
    }
    with pytest.raises(InputError, match=r"bad row 'b': a caption is not UTF-8"):
        curate(open_pool(path), steps=[step()], out=tmp_path / "strict", strict=True)


def test_repeated_keys_count_once(tmp_path):
    texts = [row or ["red"] for row in captions(150)]
    keys = [f"k{index}" for index in range(150)]
    once = write(tmp_path / "once.parquet", texts, key=keys)
    twice = write(tmp_path / "twice.parquet", [*texts, *texts[:60]], key=[*keys, *keys[:60]])
    first = curate(open_pool(once), steps=[step()], out=tmp_path / "a")
    second = curate(open_pool(twice), steps=[step()], out=tmp_path / "b")
    assert second["rows"] == {"good": 150, "bad": 60, "kept": first["rows"]["kept"]}
    assert second["pairs"] == first["pairs"]
    assert second["by_step"] == first["by_step"]
    assert len((tmp_path / "b" / "bad_rows.jsonl").read_text().splitlines()) == 60
    assert curate(open_pool(twice), steps=[step()], out=tmp_path / "workers", workers=2) == second
    with pytest.raises(InputError, match="bad row 'k0': the key occurs earlier in the pool"):
        curate(open_pool(twice), steps=[step()], out=tmp_path / "c", strict=True)


def test_any_source_and_its_bad_rows(tmp_path):
    image = tmp_path / "one.png"
    image.write_bytes(b"png")
    rows = [
        Row("file", image, ("red fox",), {"label": np.int64(3), "mask": np.eye(2, dtype=int), "from": tmp_path}),
        Row("pixels", np.zeros((2, 2, 3), np.uint8), ("owl", "nothing")),
        Row("bytes", b"jpeg", ("blue",)),
        Row("words only", None, ("fox",)),
        Row("silent", b"jpeg", ()),
        Row("missing", tmp_path / "none.png", ("red",)),
        Row("zero", b"", ("red",)),
        Row("unread", None, bad="the caption is not UTF-8 text"),
        Row("surrogate", b"x", ("\udcff",)),
        *(Row(f"lost {index}", b"x", ("red",)) for index in range(9)),
    ]
    manifest = curate(SourcePool(Listed(rows, length=7, broken=10)), steps=[step()], out=tmp_path / "out")
    table = pa.concat_tables([pq.read_table(tmp_path / "out" / shard["file"]) for shard in manifest["shards"]])
    kept = {row["key"]: row for row in table.to_pylist()}
    assert kept.keys() == {
        "file",
        "pixels",
        "bytes",
        "words only",
        "lost 0",
        *(f"lost {index}" for index in range(5, 9)),
    }
    assert kept["file"]["image"] == {"bytes": b"png", "path": "one.png"}
    assert json.loads(kept["file"]["meta"]) == {"label": 3, "mask": [[1, 0], [0, 1]], "from": str(tmp_path)}
    assert kept["pixels"]["texts"] == ["owl"]
    assert kept["pixels"]["image"]["bytes"].startswith(b"\x89PNG")
    assert kept["words only"]["image"] is None
    errors = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
    reasons = {line["key"]: line["error"] for line in errors}
    assert reasons.keys() == {"missing", "zero", "unread", "surrogate", "7"}
    assert "breaks here" in reasons["7"]
    assert "no such file" in reasons["missing"]


def test_pool_that_changes_underneath_is_noticed(tmp_path, monkeypatch):
    rows = [Row(str(index), b"x", ("red fox",)) for index in range(20)]
    source = Listed(rows, length=7)
    work = Plan.work

    def changing(self, number, piece):
        if number == 1:
            self.pool._source.rows = rows[:-2]
        return work(self, number, piece)

    monkeypatch.setattr(Plan, "work", changing)
    with pytest.raises(InputError, match="must not change while it is curated"):
        curate(SourcePool(source), steps=[step()], out=tmp_path / "out")


def test_damaged_row_group_is_named_and_skipped(tmp_path):
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"caption": ["red fox"] * 100}), path, row_group_size=50, compression="zstd",
                   use_dictionary=False)  # fmt: skip
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    start = column.data_page_offset
    raw[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(raw)
    manifest = curate(open_pool(str(path)), steps=[step()], out=tmp_path / "out")
    assert manifest["rows"]["good"] == 50
    assert manifest["rows"]["bad"] == 1
    assert "50 rows cannot be read" in (tmp_path / "out" / "bad_rows.jsonl").read_text()
    with pytest.raises(InputError, match="50 rows cannot be read"):
        curate(open_pool(str(path)), steps=[step()], out=tmp_path / "strict", strict=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": [b"x"], "words": ["red"]}, "no column of captions found"),
        ({"caption": [[1, 2]]}, "expected strings or lists of strings"),
        ({"caption": pa.array([], pa.string())}, "the pool is empty"),
    ],
)
def test_refused_parquet(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "pool.parquet")
    with pytest.raises(InputError, match=message):
        open_pool(str(tmp_path / "pool.parquet"))


def test_refused_files(tmp_path):
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="not a Parquet file"):
        open_pool(str(tmp_path / "text.parquet"))
    (tmp_path / "text.parquet").unlink()
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"caption": ["a"], "score": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="score \\(missing and int64\\)"):
        open_pool(str(tmp_path))
    with pytest.raises(InputError, match="no column 'word'"):
        open_pool({"name": "parquet", "path": str(tmp_path / "a.parquet"), "caption": "word"})


def test_recipes(tmp_path):
    (tmp_path / "words.txt").write_text("red\nfox\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"steps:\n- {{name: metaclip, entries: {tmp_path / 'words.txt'}, t: 20}}\n")
    ((name, made),) = read_recipe(recipe)
    assert name == "metaclip"
    assert made.settings["entries"] == 2
    for text, message in [
        ("steps: [{name: metaclop}]", r"steps\[0\]: unknown part 'metaclop'; did you mean 'metaclip'"),
        ("steps: [{name: metaclip, entries: [red], t: much}]", "t: "),
        ("steps: [{name: metaclip, entries: [red], limit: 3}]", "unknown key 'limit'"),
        ("step: []", "expected one key, 'steps'"),
        ("steps: [", "not valid YAML"),
    ]:
        recipe.write_text(text)
        with pytest.raises(InputError, match=message):
            read_recipe(recipe)
    with pytest.raises(InputError, match="no such file"):
        read_recipe(tmp_path / "none.yaml")
    recipe.write_text("steps: [{name: metaclip, entries: auto, t: 20}]")
    with pytest.raises(InputError, match="'entries: auto' needs a pool"):
        read_recipe(recipe)
    ((_, made),) = read_recipe(recipe, entries=lambda: tmp_path / "words.txt")
    assert made.settings["entries"] == 2
    recipe.write_text("steps: [{name: metaclip, entries: auto, t: 20}, text_rules, {name: text_rules, run: 1}]")
    steps = read_recipe(recipe, entries=lambda: tmp_path / "words.txt")
    assert [name for name, _ in steps] == ["metaclip", "text_rules", "text_rules (2)"]
    for late in ("{name: metaclip, entries: auto, t: 0}]", "{name: metaclip, entries: auto, t: 5}, {name: text_rule}]"):
        recipe.write_text(f"steps: [{late}")
        with pytest.raises(InputError, match=r"t: expected a number|unknown part"):
            read_recipe(recipe, entries=lambda: pytest.fail("counted words before it looked at the steps"))


def test_the_recipe_that_comes_along_can_be_read(tmp_path):
    (tmp_path / "words.txt").write_text("red\nfox\n")
    shipped = Path(__file__).parents[4] / "recipes" / "curate.yaml"
    steps = read_recipe(shipped, entries=lambda: tmp_path / "words.txt")
    assert [name for name, _ in steps] == [
        "tidy_text", "text_rules", "image_size", "language", "exact_duplicates", "decodes", "metaclip"
    ]  # fmt: skip


def test_progress_is_whole(tmp_path):
    seen: list[tuple[int, int | None]] = []
    pool = open_pool(write(tmp_path / "pool.parquet", captions(430)))
    curate(pool, steps=[step()], out=tmp_path / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 10)
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_groups_of_blocks():
    assert group([50, 50, 50, 200, 10], rows=100) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert group([None, None, 5], rows=100) == [(0, 1), (1, 2), (2, 3)]
    assert group([], rows=100) == []


def test_explode_of_sliced_lists(tmp_path):
    path = write(tmp_path / "pool.parquet", [["a", "b"], None, ["c"], []])
    (rows,) = open_pool(path).read(0, columns="captions")
    pairs, row = explode(rows)
    assert pairs.to_pydict() == {
        "key": ["pool.parquet:0#0", "pool.parquet:0#1", "pool.parquet:1", "pool.parquet:2", "pool.parquet:3"],
        "text": ["a", "b", None, "c", None],
    }
    assert row.tolist() == [0, 0, 1, 2, 3]
