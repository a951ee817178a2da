"""Embeddings in an object store: nobody sees half of them, another machine goes on, and they are read back whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pytest

import tether
from ray_rows import Shots
from tether.core.errors import InputError, WriteError
from tether.models import create
from tether.models.towers.clip import Clip
from tether.tasks.retrieve.embed import embed
from tether.tasks.retrieve.embed_remote import embed_to_url
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.object_store import Staging, StorePlace, files_here


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny").eval()


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    found = fsspec.filesystem("memory")
    found.store.clear()
    yield found
    found.store.clear()


def run(source: Any, url: str, model: Clip, **settings: Any):
    settings = {"batch_size": 4, "part_rows": 8, **settings}
    return embed_to_url(source, model=model, model_name="tiny", out=url, **settings)


def names(memory) -> list[str]:
    return sorted(str(path) for path in memory.find("/bucket"))


def test_one_object_appears_when_all_rows_are_there(tmp_path, memory, model):
    url = "memory://bucket/e.parquet"
    whole = embed(
        Shots(30, lost=[5]), model=model, model_name="tiny", out=tmp_path / "e.parquet", batch_size=4, part_rows=8
    )
    with pytest.raises(KeyboardInterrupt):
        run(Shots(30, lost=[5], stop=20), url, model)
    folder = "/bucket/e.parquet.parts"
    assert names(memory) == [
        f"{folder}/{name}" for name in ("embed.json", "part-00000.parquet", "part-00001.parquet", "parts.jsonl")
    ]
    with pytest.raises(InputError, match=r"e\.parquet: cannot be read"), files_here(url):
        pass
    found = run(Shots(30, lost=[5]), url, model)
    assert (found.rows, found.new, found.bad, found.path) == (29, 14, 1, url)
    assert names(memory) == ["/bucket/e.bad_rows.jsonl", "/bucket/e.parquet"]
    assert memory.cat_file("/bucket/e.parquet") == Path(whole.path).read_bytes()
    assert found.keys() == whole.keys()
    assert found.unit().tolist() == whole.unit().tolist()
    again = run(Shots(30, lost=[5]), url, model)
    assert (again.rows, again.new, again.bad) == (29, 0, 1)
    with pytest.raises(InputError, match=r"memory://bucket/e\.parquet: already there, with tether\.digest"):
        run(Shots(30, lost=[5]), url, create("tiny", seed=1).eval())
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name[0] != "."]


def test_a_folder_is_whole_with_its_manifest_and_another_machine_goes_on(tmp_path, memory, model, monkeypatch):
    url = "memory://bucket/parts"
    whole = embed(Shots(30), model=model, model_name="tiny", out=tmp_path / "whole", batch_size=4, part_rows=8)
    with pytest.raises(KeyboardInterrupt):
        run(Shots(30, stop=20), url, model)
    with pytest.raises(InputError, match=r"memory://bucket/parts: no manifest\.json there: not finished"):
        build_index(url, out=tmp_path / "db")
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"^memory://bucket/parts: holds embeddings with digest"):
        run(Shots(30), url, create("tiny", seed=1).eval())
    found = run(Shots(30), url, model)
    assert (found.rows, found.new) == (30, 14)
    said = json.loads(memory.cat_file("/bucket/parts/manifest.json"))
    assert [shard["rows"] for shard in said["shards"]] == [8, 8, 8, 6]
    for part in sorted(Path(whole.path).glob("part-*")):
        assert memory.cat_file(f"/bucket/parts/{part.name}") == part.read_bytes()
    assert run(Shots(30), url, model).new == 0
    assert len(build_index(url, out=tmp_path / "db")) == 30
    memory.pipe_file("/bucket/parts/part-00002.parquet", b"PAR1")
    with pytest.raises(InputError, match=r"part-00002\.parquet: damaged"), files_here(url):
        pass
    other = Shots(30)
    other.version = "2"
    with pytest.raises(InputError, match="source_version"):
        run(other, url, model)


def test_what_cannot_be_written_to_is_refused(memory, model, tmp_path, monkeypatch):
    memory.pipe_file("/bucket/photos/x.parquet", b"somebody's")
    with pytest.raises(InputError, match="holds Parquet files of something else"):
        run(Shots(8), "memory://bucket/photos", model)
    with pytest.raises(InputError, match="cannot reach it"):
        run(Shots(8), "nothing://bucket/e.parquet", model)
    with pytest.raises(InputError, match=r"https://host/e\.parquet: a web server is read from"):
        run(Shots(8), "https://host/e.parquet", model)
    with pytest.raises(InputError, match="expected the plain URL"):
        run(Shots(8), "memory://bucket/a::memory://b", model)

    def full(self, *_: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(type(memory), "put_file", full)
    with pytest.raises(
        WriteError, match=r"memory://bucket/e\.parquet\.parts/embed\.json: could not be written: No space"
    ):
        run(Shots(8), "memory://bucket/e.parquet", model)


def test_stores_that_show_half_a_file_get_it_by_a_rename(tmp_path, memory, monkeypatch):
    local, written = fsspec.filesystem("file"), []
    (tmp_path / "new").write_bytes(b"new")
    for url, system in ((f"file://{tmp_path}/e.parquet", local), ("memory://bucket/e.parquet", memory)):
        put = system.put_file
        monkeypatch.setattr(system, "put_file", lambda near, far, put=put: (written.append(far), put(near, far)))
        StorePlace(url).put(tmp_path / "new", url)
    assert written == [f"{tmp_path}/.e.parquet.tmp", "/bucket/e.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.parquet", "new"]


def test_from_python_by_url(tmp_path, memory):
    settings: dict[str, Any] = {"model": "tiny", "random_weights": True}
    found = tether.embed("scenes:rows=6,size=64", out="memory://bucket/s.parquet", **settings)
    local = tether.embed("scenes:rows=6,size=64", out=f"file://{tmp_path}/s.parquet", **settings)
    assert local.path == tmp_path / "s.parquet"
    tether.embed("scenes:rows=6,size=64", out=f"file://{tmp_path}/parts", **settings)
    for name in ("parts", "s.parquet"):
        assert len(build_index(f"file://{tmp_path}/{name}", out=tmp_path / f"{name}.db")) == 6
    assert memory.cat_file("/bucket/s.parquet") == (tmp_path / "s.parquet").read_bytes()
    assert found.rows == 6


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]


def test_who_removes_what_another_model_began_can_begin_again(tmp_path, memory, model):
    other, url = create("tiny", seed=1).eval(), "memory://bucket/parts"
    with pytest.raises(KeyboardInterrupt):
        run(Shots(30, stop=20), url, model)
    with pytest.raises(InputError, match=r"^memory://bucket/parts: holds embeddings with digest.*, or remove it"):
        run(Shots(30), url, other)
    memory.rm("/bucket/parts", recursive=True)
    found = run(Shots(30), url, other)
    assert (found.rows, found.new) == (30, 30)


def test_what_an_end_after_the_last_object_left_here_is_removed(tmp_path, memory, model, monkeypatch):
    for url in ("memory://bucket/parts", "memory://bucket/e.parquet"):
        with monkeypatch.context() as patched:
            patched.setattr(Staging, "clear", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(Shots(10), url, model)
        assert "part-00000.parquet" in files_in(tmp_path / "cache")
        assert run(Shots(10), url, model).new == 0
        assert not files_in(tmp_path / "cache")


@pytest.mark.parametrize("line", ["[" * 100_000, '{"path": "x.parquet", "digest": ' + "9" * 5_000 + "}", "{}"])
def test_lines_of_a_ledger_that_say_nothing_are_passed_over(tmp_path, memory, model, monkeypatch, line):
    with pytest.raises(KeyboardInterrupt):
        run(Shots(30, stop=20), "memory://bucket/parts", model)
    ledger = memory.cat_file("/bucket/parts/parts.jsonl")
    memory.pipe_file("/bucket/parts/parts.jsonl", ledger + b"\n" + line.encode())
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "other"))
    assert run(Shots(30), "memory://bucket/parts", model).new == 14


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: said["shards"].append(said["shards"][0]), "shards: expected the names of parts, once each"),
        (lambda said: said["shards"].clear(), "shards: expected the names of parts"),
        (lambda said: said["shards"].pop(), "rows: 10, but the parts that it names have 8"),
        (lambda said: said.update(rows=1_000), "rows: 1,000, but the parts that it names have 10"),
    ],
)
def test_a_manifest_that_does_not_agree_with_itself_is_refused(memory, model, change, reason):
    run(Shots(10), "memory://bucket/parts", model)
    said = json.loads(memory.cat_file("/bucket/parts/manifest.json"))
    change(said)
    memory.pipe_file("/bucket/parts/manifest.json", json.dumps(said).encode())
    with pytest.raises(InputError, match=rf"^memory://bucket/parts/manifest\.json: {reason}"):
        run(Shots(10), "memory://bucket/parts", model)
    memory.pipe_file("/bucket/parts/manifest.json", b"[" * 100_000)
    with (
        pytest.raises(InputError, match=r"^memory://bucket/parts/manifest\.json: not readable JSON"),
        files_here("memory://bucket/parts"),
    ):
        pass
