"""A store with several writers, killed ones, a full disk, or files that were damaged or made by someone else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.core.errors import InputError, LockedError, WriteError
from tether.tasks.retrieve import index, lance, memory_index
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.ivf_index import InvertedIndex
from tether.tasks.retrieve.store import Store

from test_store import SCHEMA, column, filled, table, vectors  # isort: skip - a neighbour

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("names", "there"), [(["a", "embeddings"], True), (["a", "b"], False), ([], False)])
def test_a_table_of_a_cluster_is_missing_only_where_its_list_says_so(names, there, monkeypatch):
    class Cluster:
        def open_table(self, name):
            raise ValueError("the index was not found")

        def table_names(self, page_token=None, limit=10):
            return names if page_token is None else []

    monkeypatch.setattr(lance, "connect", lambda uri, options: Cluster())
    if there:
        with pytest.raises(ValueError, match="the index was not found"):
            lance.table_of("db://place", None)
    else:
        assert lance.table_of("db://place", None) is None


CHILD = """
import os, signal, sys
from pathlib import Path
from tether.core.errors import InputError
from tether.tasks.retrieve import index, shards
from tether.tasks.retrieve.store import Store
index.ROWS_PER_COMMIT = 50
embeddings, out, existing, moment = sys.argv[1:]
calls = {"n": 0}

def stop(done=None, total=None):
    calls["n"] += 1
    if calls["n"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

if moment == "commit":
    Store.compact = lambda self: os.kill(os.getpid(), signal.SIGKILL)
index.build_index(Path(embeddings), out=out, existing=existing, on_progress=stop if moment == "rows" else None)
"""

ADDS = """
import sys
from tether.core.errors import InputError
from tether.tasks.retrieve.store import Store
sys.path.insert(0, sys.argv[2])
from test_store import table, vectors
store, taken = Store.open(sys.argv[1]), 0
for i in range(12):
    try:
        store.add(table(vectors(20, seed=1), start=1000 + 20 * i))
        taken += 1
    except InputError as error:
        assert "already there" in str(error)
print(taken)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    rows = table(vectors(400, seed=3)).replace_schema_metadata(SCHEMA.metadata)
    pq.write_table(rows, tmp_path / "e.parquet")
    return tmp_path / "e.parquet"


class TestTwoWriters:
    def test_the_second_is_refused_and_follows_when_the_first_is_dead(self, tmp_path, embeddings, monkeypatch, holder):
        made = filled(tmp_path / "db", vectors(20))
        monkeypatch.setattr(lance, "WAIT", 0.1)
        with holder(tmp_path / "db", "tether index") as pid:
            changes = [
                lambda: build_index(embeddings, out=tmp_path / "db", existing="merge"),
                lambda: build_index(embeddings, out=tmp_path / "db", existing="replace"),
                lambda: made.add(table(vectors(1), start=90)),
                lambda: made.delete(["k1"]),
                made.compact,
            ]
            for change in changes:
                with pytest.raises(LockedError, match=rf"process {pid} on .* \(tether index\)"):
                    change()
            assert len(made.search(vectors(1)[0], top=100)) == 20  # reading needs no lock
        assert len(build_index(embeddings, out=tmp_path / "db", existing="merge")) == 400

    def test_every_key_is_added_once(self, tmp_path):
        Store.create(tmp_path / "db", schema=SCHEMA)
        both = [child(ADDS, tmp_path / "db", Path(__file__).parent) for _ in range(2)]
        said = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert sum(int(out) for out, _ in said) == 12
        keys = Store.open(tmp_path / "db").warm().keys
        assert len(keys) == len(set(keys)) == 240


@pytest.mark.parametrize(
    ("existing", "moment"),
    [
        ("refuse", "commit"),
        ("merge", "rows"),
        pytest.param("refuse", "rows", marks=pytest.mark.nightly),
        pytest.param("replace", "rows", marks=pytest.mark.nightly),
    ],
)
def test_killed_while_indexing(tmp_path, embeddings, existing, moment):
    out = tmp_path / "db"
    if existing != "refuse":
        filled(out, vectors(20)).add(table(vectors(5), start=1000))
    with child(CHILD, embeddings, out, existing, moment) as process:
        assert process.wait(timeout=60) == -9, process.stderr
    there = {"refuse": 0, "replace": 25, "merge": None}[existing] if moment == "rows" else 400
    if there == 0:
        with pytest.raises(InputError, match=r"not finished; make it with: tether index EMBEDDINGS --out"):
            Store.open(out)
    else:
        opened = Store.open(out)
        assert len(opened.search(vectors(1)[0], top=1000)) == len(opened)
        assert there in (len(opened), None)
    again = build_index(embeddings, out=out, existing=existing)
    keys = again.warm().keys
    assert len(keys) == len(set(keys)) == (405 if existing == "merge" else 400)
    row = again.records(["k7"])["embedding"].to_pylist()[0]
    assert np.allclose(row, vectors(400, seed=3)[7])
    assert not list(tmp_path.rglob(".tmp*"))
    with pytest.raises(InputError, match="already holds a store"):
        build_index(embeddings, out=out)


def test_a_merge_that_fails_keeps_what_it_wrote_and_says_so(tmp_path, embeddings, monkeypatch):
    monkeypatch.setattr(index, "ROWS_PER_COMMIT", 150)
    made = Store.create(tmp_path / "db", schema=pq.read_schema(embeddings))
    made.add(table(vectors(1), start=1000))
    put, calls = Store.put, []

    def full(self: Store, rows: pa.Table) -> None:
        calls.append(Store.open(tmp_path / "db"))
        if len(calls) == 3:
            raise WriteError("db", OSError("No space left"))
        put(self, rows)

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(Exception, match=r"No space left.*300 of 400 rows were merged; the same command merges the"):
        build_index(embeddings, out=tmp_path / "db", existing="merge")
    assert len(made) == 301
    monkeypatch.setattr(Store, "put", put)
    assert len(build_index(embeddings, out=tmp_path / "db", existing="merge")) == 401


def test_put_is_one_commit_and_keeps_what_is_not_named(tmp_path):
    made = filled(tmp_path / "db", vectors(5))
    made.search(vectors(1)[0])
    before = made.version
    made.put(pa.table({"key": ["k1", "new"], "embedding": column(vectors(2, seed=9)), "year": [1, 2]}))
    assert made.version == before + 1
    found = made.records(["k1", "new"])
    assert found["label"].to_pylist() == ["dog", None]
    assert found["year"].to_pylist() == [1, 2]
    assert len(made.search(vectors(1)[0], top=10)) == 6
    with pytest.raises(InputError, match="'embedding' is missing"):
        made.put(pa.table({"key": ["k1", "newer"], "year": [1, 2]}))


def test_a_reader_notices_that_its_store_was_replaced(tmp_path):
    reader = filled(tmp_path / "db", vectors(5))
    reader.search(vectors(1)[0])
    schema = SCHEMA.with_metadata({"tether.digest": "other"})
    Store.create(tmp_path / "db", schema=schema, rows=[table(vectors(5, seed=1))], overwrite=True)
    with pytest.raises(InputError, match="replaced by vectors of another model; open it again"):
        reader.search(vectors(1)[0])


def test_a_full_disk_while_indexing(tmp_path):
    resource = pytest.importorskip("resource")
    pq.write_table(table(vectors(5_000)), tmp_path / "e.parquet")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(WriteError, match=r"db: could not be written: .*; what was in the store is unchanged"):
            build_index(tmp_path / "e.parquet", out=tmp_path / "db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(build_index(tmp_path / "e.parquet", out=tmp_path / "db")) == 5_000


def damage(path: Path, *, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "flipped":
        for at in range(len(data) - 40, len(data), 7):  # both formats keep their lengths at the end
            data[at] ^= 255
    path.write_bytes(b"no such format" if how == "other" else data)


@pytest.mark.parametrize("how", ["cut", "flipped", "other"])
@pytest.mark.parametrize("which", ["_versions/*.manifest", "data/*.lance"])
def test_a_damaged_store_is_refused_by_name(tmp_path, which, how):
    filled(tmp_path / "db", vectors(100))
    for path in (tmp_path / "db" / "embeddings.lance").glob(which):
        damage(path, how=how)
    with pytest.raises(InputError, match=r"db: cannot be read; damaged or out of reach"):
        Store.open(tmp_path / "db").search(vectors(1)[0])


def test_a_store_that_claims_far_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    made = filled(tmp_path / "db", vectors(10))
    monkeypatch.setattr(type(made._table), "count_rows", lambda self: 10**12)
    with pytest.raises(InputError, match="claims 64,000,000,000,000 bytes of vectors in files of"):
        made.search(vectors(1)[0])


class TestIndexCache:
    @pytest.fixture(autouse=True)
    def small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("faiss")
        monkeypatch.setattr(memory_index, "INDEX_ABOVE", 100)
        monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))

    @pytest.mark.parametrize("change", ["copied", "replaced", "flipped", "cut"])
    def test_what_is_not_this_stores_own_never_reaches_faiss(self, tmp_path, monkeypatch, embeddings, change):
        path = tmp_path / "db"
        made = build_index(embeddings, out=path)
        (saved,) = (tmp_path / "cache").rglob("*.faiss")
        assert not [each for each in path.rglob("*") if each.suffix in (".faiss", ".npy")]
        if change == "copied":
            path = path.rename(tmp_path / "moved")
        elif change == "replaced":
            Store.create(path, schema=made.schema, rows=[table(vectors(400, seed=5))], overwrite=True)
        else:
            data = bytearray(saved.read_bytes())
            data[len(data) // 2] ^= 1
            saved.write_bytes(data if change == "flipped" else data[:-1])
        monkeypatch.setattr(InvertedIndex, "load", None)  # reading one would fail
        x = vectors(400, seed=5 if change == "replaced" else 3)
        assert Store.open(path).search(x[5], how="index").keys[0] == "k5"
        monkeypatch.undo()
        monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(InvertedIndex, "build", None)  # it was kept anew, and of the old one nothing is left
        assert Store.open(path).search(x[5], how="index").keys[0] == "k5"
        assert len(list((tmp_path / "cache").rglob("*.faiss"))) == 1

    def test_a_cache_that_cannot_be_written_costs_only_time(self, tmp_path, monkeypatch, embeddings):
        (tmp_path / "file").touch()
        monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "file"))
        assert len(build_index(embeddings, out=tmp_path / "db")) == 400


def test_a_store_is_not_made_among_other_files(tmp_path):
    vector = pa.array([[1.0, 0.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"key": ["a"], "embedding": vector}), tmp_path / "e.parquet")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    for existing in ("refuse", "replace"):
        with pytest.raises(InputError, match=r"photos: holds other files \(a\.jpg\)"):
            build_index(tmp_path / "e.parquet", out=tmp_path / "photos", existing=existing)
    with pytest.raises(InputError, match=r"e\.parquet: a file; expected"):
        build_index(tmp_path / "e.parquet", out=tmp_path / "e.parquet")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
