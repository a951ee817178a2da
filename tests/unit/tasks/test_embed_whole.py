"""Embedding into an output that another process, a kill, a full disk or damage has left in some state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.core.errors import InputError, LockedError, WriteError
from tether.core.types import Block, Row
from tether.data import open_source
from tether.data.features import parquet
from tether.models import create
from tether.models.towers.clip import Clip
from tether.tasks.retrieve.embed import embed
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.search import Searcher

from test_embed import row, run  # isort: skip - a neighbour


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny").eval()


@pytest.mark.parametrize(("out", "folder"), [("e.parquet", "e.parquet.parts"), ("parts", "parts")])
def test_the_second_writer_is_refused(tmp_path, model, out, folder, holder):
    with (
        holder(tmp_path / folder, "tether embed") as pid,
        pytest.raises(LockedError, match=rf"process {pid} on .* \(tether embed\)"),
    ):
        run([row(0)], tmp_path / out, model)
    assert run([row(0)], tmp_path / out, model).rows == 1


def test_what_a_kill_left_is_removed_and_an_unfinished_folder_takes_other_settings(tmp_path, model):
    for out, folder, bad in (
        (tmp_path / "parts", tmp_path / "parts", tmp_path / "parts" / "bad_rows.jsonl"),
        (tmp_path / "e.parquet", tmp_path / "e.parquet.parts", tmp_path / "e.bad_rows.jsonl"),
    ):
        with pytest.raises(InputError, match="bad"):
            run([Row("a", b"x")], out, model, thumbnail=16)
        assert bad.exists()
        (folder / ".part-00000.parquet.abcdefgh.tmp").write_bytes(b"x" * 1000)
        report = run([row(i) for i in range(9)], out, model)
        assert (report.rows, report.bad, bad.exists()) == (9, 0, False)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


def parts_of(folder: Path, model: Clip) -> list[Path]:
    with pytest.raises(KeyboardInterrupt):
        run([row(i) for i in range(40)], folder, model, stop=28)
    return sorted(folder.glob("part-*.parquet"))


@pytest.mark.parametrize("how", ["cut", "flipped", "text", "columns", "model"])
def test_a_damaged_part_is_named_and_made_again_when_it_is_removed(tmp_path, model, how):
    parts = parts_of(tmp_path / "out", model)
    assert len(parts) == 3
    data = bytearray(parts[1].read_bytes())
    if how == "columns":
        pq.write_table(pa.table({"key": ["a"]}), parts[1])
    elif how == "model":
        pq.write_table(pq.read_table(parts[1]).replace_schema_metadata({"tether.digest": "x"}), parts[1])
    elif how == "flipped":
        data[6] ^= 255  # in the header of the first page
        parts[1].write_bytes(data)
    else:
        parts[1].write_bytes(data[:-9] if how == "cut" else b"words")
    with pytest.raises(InputError, match=r"part-00001\.parquet: "):
        run([row(i) for i in range(40)], tmp_path / "out", model)
    parts[1].unlink()
    assert run([row(i) for i in range(40)], tmp_path / "out", model).rows == 40
    keys = [key for part in (tmp_path / "out").glob("part-*.parquet") for key in parquet.keys_in(part)]
    assert sorted(keys) == [f"k{i:02d}" for i in range(40)]


def test_a_flipped_bit_in_a_vector_is_found(tmp_path, model):
    run([row(i) for i in range(8)], tmp_path / "out", model)
    part = tmp_path / "out" / "part-00000.parquet"
    data, vector = bytearray(part.read_bytes()), pq.read_table(part)["embedding"].to_numpy()[3].tobytes()
    data[data.index(vector[:16])] ^= 1
    part.write_bytes(data)
    with pytest.raises(InputError, match=r"part-00000\.parquet: damaged"):
        build_index(tmp_path / "out", out=tmp_path / "db")


def test_a_file_that_claims_far_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ALWAYS_FINE", 2**16)
    same = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2**18, np.float32)), 16)
    pq.write_table(pa.table({"key": map(str, range(2**14)), "embedding": same}), tmp_path / "sound.parquet")
    pq.write_table(pa.table({"key": pa.nulls(2**14, pa.string()), "embedding": same}), tmp_path / "bomb.parquet")
    assert parquet.rows_in(tmp_path / "sound.parquet") == 2**14
    with pytest.raises(InputError, match=r"bomb\.parquet: claims 1,[\d,]+ bytes of values in a file of"):
        build_index(tmp_path / "bomb.parquet", out=tmp_path / "db")


def test_a_full_disk_keeps_the_finished_parts(tmp_path, model):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [row(i) for i in range(40)]
    parts = parts_of(tmp_path / "e.parquet", model) or sorted((tmp_path / "e.parquet.parts").glob("part-*"))
    limit = 2 * parts[0].stat().st_size  # enough for a part, not for the file
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(WriteError, match=r"e\.parquet: could not be written: .*is unchanged"):
            run(rows, tmp_path / "e.parquet", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    report = run(rows, tmp_path / "e.parquet", model)
    assert (report.rows, report.new) == (40, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


class TestPaths:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for i in range(3):
            path = tmp_path / "images" / "cat" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
        return tmp_path

    def embedded(self, spec: Path, out: Path, model: Clip) -> Path:
        return embed(open_source(str(spec)), model=model, model_name="tiny", out=out).path

    def test_they_are_relative_to_what_was_embedded(self, folder, model, monkeypatch):
        (folder / "pairs.csv").write_text("filepath,title\nimages/cat/0.png,a\n")
        monkeypatch.chdir(folder)
        for spec, wanted in (
            (folder / "images", [f"cat/{i}.png" for i in range(3)]),
            (Path("images/cat"), [f"{i}.png" for i in range(3)]),
            (folder / "images" / "cat" / "*.png", [f"{i}.png" for i in range(3)]),
            (folder / "pairs.csv", ["images/cat/0.png"]),
        ):
            out = folder / f"{abs(hash(spec))}.parquet"
            assert pq.read_table(self.embedded(spec, out, model))["path"].to_pylist() == wanted

    def test_hits_find_their_images_below_the_folder_that_the_user_names_and_nowhere_else(self, folder, model):
        table = pq.read_table(self.embedded(folder / "images", folder / "e.parquet", model))
        evil = ["cat/0.png", "../secret.png", str(folder / "secret.png")]
        pq.write_table(table.set_column(table.schema.get_field_index("path"), "path", [evil]), folder / "f.parquet")
        searcher = Searcher(build_index(folder / "f.parquet", out=folder / "db"), model=model)
        found = searcher.text("a cat")
        assert [hit.image for hit in searcher.hits(found)] == [None] * 3
        images = {hit.image for hit in searcher.hits(found, images=folder / "images")}
        assert images == {folder / "images" / "cat" / "0.png", None}


class Odd:
    """A source whose keys and columns are not Unicode, as file names may be."""

    name, version = "odd", "1"

    def blocks(self) -> Sequence[Block]:
        return [Block("0")]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for i in range(start, 5):
            picture = np.full((8, 8, 3), i, dtype=np.uint8)
            yield Row(f"caf\udce9{i}", picture, (), {"label": "caf\udce9", "big": 10**30})


def test_names_that_are_not_unicode_are_escaped_and_known_again(tmp_path, model):
    for new in (5, 0):
        report = embed(Odd(), model=model, model_name="tiny", out=tmp_path / "out", part_rows=2)
        assert (report.rows, report.new) == (5, new)
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert table["key"].to_pylist() == ["caf\\udce90", "caf\\udce91"]
    assert table["label"].to_pylist() == ["caf\\udce9"] * 2
