"""The store: exact answers, changes without a rebuild, clear refusals."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tether.core.errors import InputError, WriteError
from tether.tasks.retrieve import memory_index, store
from tether.tasks.retrieve.flat_index import UnitVectors, best, unit
from tether.tasks.retrieve.ivf_index import InvertedIndex
from tether.tasks.retrieve.store import Store

DIM = 16
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "embedding": pa.list_(pa.float32(), DIM),
        "texts": pa.list_(pa.string()),
        "label": pa.string(),
        "year": pa.int64(),
    },
    metadata={"tether.digest": "abc", "tether.model": "a-model"},
)


def vectors(n: int, *, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def column(x: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).ravel()), x.shape[1])


def table(x: np.ndarray, *, start: int = 0) -> pa.Table:
    numbers = range(start, start + len(x))
    return pa.table(
        {
            "key": [f"k{i}" for i in numbers],
            "embedding": column(x),
            "texts": [[f"row {i}"] for i in numbers],
            "label": ["cat" if i % 10 == 0 else "dog" for i in numbers],
            "year": [2000 + i % 7 for i in numbers],
        }
    )


def filled(path: Path, x: np.ndarray) -> Store:
    made = Store.create(path, schema=SCHEMA)
    made.add(table(x))
    return made


def truth(x: np.ndarray, query: np.ndarray, *, top: int, keys: list[str]) -> list[str]:
    scores = x @ query / np.linalg.norm(x, axis=1)
    return [keys[i] for i in np.argsort(-scores, kind="stable")[:top]]


def test_answers_are_the_exact_nearest(tmp_path: Path) -> None:
    x, keys = vectors(500), [f"k{i}" for i in range(500)]
    made = filled(tmp_path / "db", x)
    for query in vectors(5, seed=1):
        found = made.search(query, top=10)
        assert list(found.keys) == truth(x, query, top=10, keys=keys)
        assert found.how == "exact"
        assert np.all(np.diff(found.scores) <= 0)
        cosine = x[int(found.keys[0][1:])] @ query / np.linalg.norm(query) / np.linalg.norm(x[int(found.keys[0][1:])])
        assert found.scores[0] == pytest.approx(cosine, abs=1e-6)


def test_filter_comes_first_and_costs_no_recall(tmp_path: Path) -> None:
    x = vectors(500)
    made = filled(tmp_path / "db", x)
    made.index_columns()
    cats = np.arange(0, 500, 10)
    for query in vectors(3, seed=1):
        wanted = truth(x[cats], query, top=10, keys=[f"k{i}" for i in cats])
        assert list(made.search(query, top=10, where="label = 'cat'").keys) == wanted
        assert list(made.search(query, top=10, where="label = 'cat'").keys) == wanted  # remembered
    broad = made.search(vectors(1, seed=1)[0], top=500, where="label = 'dog' AND year >= 2001")
    assert set(broad.keys) == {f"k{i}" for i in range(500) if i % 10 and i % 7 >= 1}
    assert len(made.search(vectors(1)[0], where="year = 1")) == 0


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_add_update_delete_equal_a_fresh_store(tmp_path: Path, warm: bool) -> None:
    x = vectors(200)
    made = filled(tmp_path / "db", x)
    query = vectors(1, seed=9)[0]
    if warm:
        made.search(query)
        made.search(query, where="year = 2003")
    new = vectors(50, seed=2)
    made.add(table(new, start=200))
    moved = vectors(3, seed=3)
    made.update(pa.table({"key": ["k5", "k205", "k7"], "embedding": column(moved)}))
    made.update(pa.table({"key": ["k9"], "label": ["cow"]}))
    made.delete(["k0", "k249", "k11"])
    made.add(table(vectors(1, seed=4), start=0))  # a key may come back

    whole = {f"k{i}": v for i, v in enumerate(np.concatenate([x, new]))}
    whole.update({"k5": moved[0], "k205": moved[1], "k7": moved[2]})
    for key in ("k0", "k249", "k11"):
        del whole[key]
    whole["k0"] = vectors(1, seed=4)[0]
    wanted = truth(np.stack(list(whole.values())), query, top=248, keys=list(whole))
    again = Store.open(tmp_path / "db")
    for one in (made, again):
        assert len(one) == 248
        assert list(one.search(query, top=300).keys) == wanted
        assert list(one.search(query, where="label = 'cow'").keys) == ["k9"]
        cats = set(one.search(query, top=300, where="label = 'cat'").keys)
        assert cats == {k for k in whole if int(k[1:]) % 10 == 0}
    assert again.records(["k9"])["texts"].to_pylist() == [["row 9"]]  # columns that were not named stay


def test_another_process_is_seen(tmp_path: Path) -> None:
    reader = filled(tmp_path / "db", vectors(50))
    query = vectors(1, seed=1)[0]
    reader.search(query)
    writer = Store.open(tmp_path / "db")
    writer.add(pa.table({"key": ["new"], "embedding": column(query[None])}))
    assert reader.search(query).keys[0] == "new"
    with pytest.raises(InputError, match="'new' is already there"):
        reader.add(pa.table({"key": ["new"], "embedding": column(query[None])}))
    writer.delete(["new"])
    assert reader.search(query).keys[0] != "new"


def test_it_compacts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "COMPACT_EVERY", 10)
    monkeypatch.setattr(Store.compact, "__kwdefaults__", {"keep": timedelta(milliseconds=1)})
    made = filled(tmp_path / "db", vectors(4))
    for i in range(25):
        made.add(table(vectors(1, seed=i), start=10 + i))
        assert len(made.search(vectors(1)[0], top=100)) == 5 + i
    files = sum(path.is_file() for path in (tmp_path / "db").rglob("*"))
    assert files < 40
    assert len(Store.open(tmp_path / "db")) == 29
    assert len(made.search(vectors(1)[0], top=100, where="year >= 2000")) == 29


def test_order_that_differs_after_a_rewrite_is_found_again(tmp_path: Path) -> None:
    made = filled(tmp_path / "db", vectors(60))
    made.search(vectors(1)[0])
    made.update(table(vectors(20, seed=5)[::-1], start=10))
    made.compact()
    for year in range(2000, 2007):
        found = made.search(vectors(1)[0], top=100, where=f"year = {year}")
        assert set(found.keys) == {f"k{i}" for i in range(60) if 2000 + i % 7 == year}


class TestRefusals:
    def test_not_finite_or_zero(self, tmp_path: Path) -> None:
        made = filled(tmp_path / "db", vectors(3))
        for bad in (np.nan, np.inf, 0.0):
            x = vectors(2, seed=1)
            x[1] = bad
            with pytest.raises(InputError, match="vector 1"):
                made.add(table(x, start=10))
            with pytest.raises(InputError, match="query"):
                made.search(x[1])
        assert len(made) == 3

    def test_wrong_length(self, tmp_path: Path) -> None:
        made = filled(tmp_path / "db", vectors(3))
        with pytest.raises(InputError, match=r"expected a query of shape \(16,\), got \(8,\)"):
            made.search(vectors(1, dim=8)[0])
        with pytest.raises(InputError, match="vectors of 16 float32"):
            made.add(table(vectors(2, dim=8), start=10))

    def test_filter(self, tmp_path: Path) -> None:
        made = filled(tmp_path / "db", vectors(3))
        query = vectors(1)[0]
        with pytest.raises(InputError, match=r"lable.*columns: key, embedding, texts, label, year"):
            made.search(query, where="lable = 'cat'")
        for bad in ("label = ", "year > 'x'", "label", "year = 2000; DROP TABLE x"):
            with pytest.raises(InputError, match="filter") as caught:
                made.search(query, where=bad)
            assert ".rs:" not in str(caught.value)
        assert len(made) == 3

    def test_keys(self, tmp_path: Path) -> None:
        made = filled(tmp_path / "db", vectors(3))
        with pytest.raises(InputError, match="'k2' is already there"):
            made.add(table(vectors(1), start=2))
        with pytest.raises(InputError, match="'a' comes twice"):
            made.add(pa.table({"key": ["a", "a"], "embedding": column(vectors(2))}))
        with pytest.raises(InputError, match="row 1 has no key"):
            made.add(pa.table({"key": ["a", None], "embedding": column(vectors(2))}))
        with pytest.raises(InputError, match="no row with key 'x'"):
            made.delete(["k0", "x"])
        with pytest.raises(InputError, match="no row with key 'x'"):
            made.update(pa.table({"key": ["x"], "label": ["cat"]}))
        assert len(made) == 3

    def test_columns(self, tmp_path: Path) -> None:
        made = filled(tmp_path / "db", vectors(3))
        with pytest.raises(InputError, match="unknown column 'colour'"):
            made.add(pa.table({"key": ["a"], "embedding": column(vectors(1)), "colour": ["red"]}))
        with pytest.raises(InputError, match="'embedding' is missing"):
            made.add(pa.table({"key": ["a"]}))
        with pytest.raises(InputError, match="'year': expected sound int64"):
            made.add(pa.table({"key": ["a"], "embedding": column(vectors(1)), "year": ["long ago"]}))

    def test_places(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such store"):
            Store.open(tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no table"):
            Store.open(tmp_path / "empty")
        filled(tmp_path / "db", vectors(3))
        with pytest.raises(InputError, match="already holds a store"):
            Store.create(tmp_path / "db", schema=SCHEMA)
        assert len(Store.create(tmp_path / "db", schema=SCHEMA, overwrite=True)) == 0
        with pytest.raises(InputError, match="holds no rows"):
            Store.open(tmp_path / "db").search(vectors(1)[0])
        with pytest.raises(InputError, match="expected fixed-size lists of float32"):
            Store.create(tmp_path / "other", schema=pa.schema({"key": pa.string(), "embedding": pa.string()}))


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    made = filled(tmp_path / "db", vectors(20))
    made.search(vectors(1)[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # a file may not grow further, as on a full disk
    try:
        with pytest.raises(WriteError, match=r"db: could not be written: .*; what was in the store is unchanged"):
            made.add(table(vectors(5_000, seed=1), start=100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for one in (made, Store.open(tmp_path / "db")):
        assert len(one.search(vectors(1)[0], top=100)) == len(one) == 20
    made.add(table(vectors(5, seed=1), start=100))
    assert len(made) == 25


def test_a_failed_compaction_is_no_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(tmp_path / "db", vectors(20))
    monkeypatch.setattr(store, "COMPACT_EVERY", 1)
    monkeypatch.setattr(type(made._table), "optimize", lambda self, **given: (_ for _ in ()).throw(OSError("no space")))
    with pytest.warns(UserWarning, match="not compacted.*no space"):
        made.add(table(vectors(1, seed=1), start=100))
    assert made.search(vectors(1, seed=1)[0]).keys[0] == "k100"


def test_quotes_in_keys(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "db", schema=SCHEMA)
    keys = ["it's", "' OR 1=1 --", "ключ/猫"]
    made.add(pa.table({"key": keys, "embedding": column(vectors(3))}))
    assert made.records(keys[::-1], columns=["year"])["key"].to_pylist() == keys[::-1]
    made.delete(["' OR 1=1 --"])
    assert len(made) == 2


def test_metadata_says_which_model(tmp_path: Path) -> None:
    filled(tmp_path / "db", vectors(3)).compact()
    again = Store.open(tmp_path / "db")
    assert (again.digest, again.model, again.dim) == ("abc", "a-model", DIM)


class TestIndex:
    @pytest.fixture(autouse=True)
    def small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("faiss")
        monkeypatch.setattr(memory_index, "INDEX_ABOVE", 1_000)
        monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))

    def recall(self, made: Store, queries: np.ndarray) -> float:
        shared = []
        for query in queries:
            exact = made.search(query, how="exact")
            found = made.search(query)
            assert found.how == "index"
            shared.append(len(set(exact.keys) & set(found.keys)) / len(exact))
            common = dict(zip(exact.keys, exact.scores, strict=True))
            for key, score in zip(found.keys, found.scores, strict=True):
                assert common.get(key, score) == pytest.approx(score, abs=1e-6)
        return float(np.mean(shared))

    def test_it_follows_every_change(self, tmp_path: Path) -> None:
        centres = vectors(40, seed=7)
        x = centres[np.arange(2_000) % 40] + 0.3 * vectors(2_000)
        made = filled(tmp_path / "db", x)
        queries = centres[:10] + 0.3 * vectors(10, seed=8)
        assert self.recall(made, queries) >= 0.98
        made.add(table(queries[:5], start=5_000))
        assert made.search(queries[3]).keys[0] == "k5003"
        made.delete(["k5003"])
        assert made.search(queries[3]).keys[0] != "k5003"
        made.update(pa.table({"key": ["k17"], "embedding": column(queries[3:4])}))
        assert made.search(queries[3]).keys[0] == "k17"
        assert self.recall(made, queries) >= 0.98
        filtered = made.search(queries[0], where="label = 'cat'")
        assert filtered.how == "exact"

    def test_it_is_kept_and_believed_only_if_it_fits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        x = vectors(2_000)
        made = filled(tmp_path / "db", x)
        made.search(x[0])
        made.delete(["k1"])
        made.add(table(x[1:2], start=9_000))
        monkeypatch.setattr(InvertedIndex, "build", None)  # a second build would fail
        again = Store.open(tmp_path / "db")
        assert again.search(x[0]).keys[0] == "k0"
        assert again.search(x[1]).keys[0] == "k9000"
        monkeypatch.undo()
        monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(memory_index, "INDEX_ABOVE", 1_000)
        saved = next((tmp_path / "cache").rglob("*.faiss"))
        saved.write_bytes(saved.read_bytes()[:1_000])
        assert Store.open(tmp_path / "db").search(x[5]).keys[0] == "k5"
        monkeypatch.setattr(InvertedIndex, "build", None)
        assert Store.open(tmp_path / "db").search(x[5]).keys[0] == "k5"  # rebuilt and saved above


class TestVectors:
    def test_best_is_stable_and_leaves_out_the_removed(self) -> None:
        scores = np.array([1, 3, 2, 3, -np.inf, 2, 3], dtype=np.float32)
        assert best(scores, top=4).tolist() == [1, 3, 6, 2]
        assert best(scores, top=2).tolist() == [1, 3]
        assert best(scores, top=100).tolist() == [1, 3, 6, 2, 5, 0]
        assert best(np.array([-np.inf, 1, -np.inf], dtype=np.float32), top=2).tolist() == [1]
        assert best(np.empty(0, dtype=np.float32), top=2).tolist() == []

    def test_it_grows_and_forgets(self) -> None:
        kept = UnitVectors(dim=4)
        rows = unit(vectors(30, dim=4), where="test")
        for row in rows:
            kept.append(row[None])
        assert np.array_equal(kept.rows, rows)
        kept.remove(np.array([3, 4, 3]))
        assert kept.removed == 2
        _, scores = kept.scores(rows[3])
        assert np.isneginf(scores[[3, 4]]).all()
        assert np.isfinite(np.delete(scores, [3, 4])).all()
        for only in (np.array([1, 2]), np.arange(25)):
            positions, part = kept.scores(rows[0], only=only)
            assert np.array_equal(positions, only)
            assert np.allclose(part, rows[only] @ rows[0])

    def test_the_input_is_not_changed(self) -> None:
        x = vectors(3)
        before = x.copy()
        assert np.allclose(np.linalg.norm(unit(x, where="test"), axis=1), 1)
        assert np.array_equal(x, before)
