"""Search by the first numbers of vectors: over arrays, in a store, and with the encoder that is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import tether
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.data import open_source
from tether.methods.jina_clip_v2.nested_search import nested_search
from tether.models.encoders.truncated import NarrowEncoder
from tether.tasks.retrieve.embed import embed
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.search import Searcher
from tether.tasks.retrieve.store import Store

RNG = np.random.default_rng(0)
BASE, QUERIES = RNG.standard_normal((300, 32)).astype(np.float32), RNG.standard_normal((4, 32)).astype(np.float32)


def ranked(query: np.ndarray, *, dims: int, rows: np.ndarray | None = None, top: int = 10) -> list[int]:
    some = np.arange(len(BASE)) if rows is None else rows
    cut = BASE[some, :dims]
    scores = cut @ query[:dims] / np.linalg.norm(cut, axis=1)
    return some[np.argsort(-scores, kind="stable")[:top]].tolist()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tether.load("tiny", random_weights=True)


@pytest.fixture(scope="module")
def stores(model, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Store]:
    folder, found = tmp_path_factory.mktemp("stores"), {}
    source = open_source("scenes:rows=12,size=64", where="test")
    for dims in (model.dim, 8):
        encoder = NarrowEncoder(model, dims=dims) if dims < model.dim else model
        made = embed(source, model=encoder, model_name="tiny", out=folder / f"{dims}.parquet")
        found[dims] = build_index(made.path, out=folder / f"{dims}.db")
    return found


def test_stages_over_arrays() -> None:
    assert nested_search(QUERIES, base=BASE, dims=(8,)).rows.tolist() == [ranked(q, dims=8) for q in QUERIES]
    whole = nested_search(QUERIES, base=BASE, dims=(4, 32), shortlist=300)
    assert whole.rows.tolist() == [ranked(q, dims=32) for q in QUERIES]
    found = nested_search(QUERIES, base=BASE, dims=(4, 16, 32), shortlist=40, top=5)
    for query, rows, scores in zip(QUERIES, *found, strict=True):
        first = np.array(ranked(query, dims=4, top=40))
        second = np.array(ranked(query, dims=16, rows=first, top=40))
        assert rows.tolist() == ranked(query, dims=32, rows=second, top=5)
        wanted = BASE[rows] @ query / np.linalg.norm(BASE[rows], axis=1) / np.linalg.norm(query)
        np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert nested_search(QUERIES, base=BASE[:3], dims=(8, 32)).rows.shape == (4, 3)


def test_first_numbers_that_are_all_zeros_are_near_to_nothing(tmp_path: Path, stores: dict[int, Store], model) -> None:
    base = np.abs(BASE[:20])
    base[7, :8] = 0
    query = np.abs(QUERIES[:1])
    for dims in ((4,), (4, 8)):
        found = nested_search(query, base=base, dims=dims, shortlist=20, top=20)
        assert (found.rows[0, -1], found.scores[0, -1]) == (7, 0)
        others = nested_search(query, base=np.delete(base, 7, axis=0), dims=dims, shortlist=19, top=19)
        assert (others.rows[0] + (others.rows[0] >= 7)).tolist() == found.rows[0, :-1].tolist()
    wanted = np.argsort(-(base @ query[0]) / np.linalg.norm(base, axis=1), kind="stable")
    assert nested_search(query, base=base, dims=(4, 32), shortlist=20, top=20).rows[0].tolist() == wanted.tolist()
    base[3] = 0
    with pytest.raises(InputError, match="base: vector 3 is all zeros"):
        nested_search(query, base=base, dims=(4, 32))
    made, records = Store.create(tmp_path / "db", schema=stores[model.dim].schema), stores[model.dim].warm()
    table = stores[model.dim].records(list(records.keys))
    rows = records.vectors.rows.copy()
    rows[5, :8] = 0
    place = table.schema.get_field_index("embedding")
    column = pa.FixedSizeListArray.from_arrays(rows.ravel(), type=table.schema.field(place).type)
    made.add(table.set_column(place, table.schema.field(place), column))
    mean = records.vectors.rows.mean(0)
    found = made.search(mean, dims=8, top=12)
    assert (found.keys[-1], found.scores[-1]) == (records.keys[5], 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dims": (16, 8)}, "widths that rise up to at most 32"),
        ({"dims": (8, 33)}, "widths that rise up to at most 32"),
        ({"dims": ()}, "dims"),
        ({"dims": (0, 8)}, "dims"),
        ({"dims": (8, 32), "shortlist": 5}, "at least top, 10, got 5"),
        ({"dims": (8,), "base": BASE[:, :4]}, r"got \(4, 32\) and \(300, 4\)"),
    ],
)
def test_what_arrays_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        nested_search(QUERIES, **{"base": BASE, **settings})


def test_a_store_compares_the_first_numbers(stores: dict[int, Store], model) -> None:
    wide, narrow = Searcher(stores[model.dim], model=model), Searcher(stores[8], model=model)
    found, wanted = wide.text("a red circle", dims=8, top=12), narrow.text("a red circle", top=12)
    assert found.keys == wanted.keys
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    whole = wide.text("a red circle", top=12)
    listed = wide.text("a red circle", dims=8, shortlist=4, top=3)
    assert listed.how == "index"
    assert list(listed.keys) == [key for key in whole.keys if key in found.keys[:4]][:3]
    held, asked = wide.store.warm(), model.embed(["a red circle"]).detach().numpy()
    stages = nested_search(asked, base=held.vectors.rows, dims=(8, model.dim), shortlist=4, top=3)
    assert [held.keys[row] for row in stages.rows[0]] == list(listed.keys)
    every = wide.text("a red circle", dims=8, shortlist=12, top=12)
    assert every.keys == whole.keys
    key = found.keys[0]
    assert wide.text("a red circle", dims=8, where=f"key != '{key}'").keys[0] == found.keys[1]


def test_removed_rows_are_not_found_by_their_first_numbers(tmp_path: Path, stores: dict[int, Store], model) -> None:
    made = Store.create(tmp_path / "db", schema=stores[model.dim].schema)
    made.add(stores[model.dim].records(list(stores[model.dim].warm().keys)))
    query = np.ones(model.dim, dtype=np.float32)
    first, second = made.search(query, dims=8, top=2).keys
    made.delete([first])
    assert made.search(query, dims=8, top=1).keys == (second,)


def test_what_a_store_refuses(stores: dict[int, Store], model) -> None:
    store, query = stores[model.dim], np.ones(model.dim, dtype=np.float32)
    for settings, said in (
        ({"dims": model.dim + 1}, f"at most the {model.dim} numbers"),
        ({"dims": 0}, "dims"),
        ({"shortlist": 20}, r"needs dims .--dims. beside it"),
        ({"dims": 8, "shortlist": 5}, "at least top, 10"),
        ({"dims": 8, "how": "index"}, "the index has none"),
    ):
        with pytest.raises(InputError, match=said):
            store.search(query, **settings)
    other = tether.load("small", random_weights=True)
    with pytest.raises(InputError, match="scores between two models mean nothing"):
        Searcher(stores[8], model=other)


def test_the_cut_encoder(model) -> None:
    narrow = NarrowEncoder(model, dims=8)
    rows = model.embed(["a cat", "a dog"])
    torch.testing.assert_close(narrow.embed(["a cat", "a dog"]), torch.nn.functional.normalize(rows[:, :8], dim=1))
    assert model_digest(narrow) not in (model_digest(model), model_digest(NarrowEncoder(model, dims=9)))
    found = [
        tether.eval(each, "scenes:rows=12,size=64", bootstrap=0, **more)
        for each, more in ((narrow, {}), (model, {"dims": 8}))
    ]
    assert found[0]["text_to_image_r1"] == found[1]["text_to_image_r1"]
    with pytest.raises(InputError, match=f"at most the {model.dim} numbers"):
        NarrowEncoder(model, dims=model.dim + 1)
    with pytest.raises(InputError, match="no embeddings when they are cut"):
        NarrowEncoder(tether.models.create("tiny", geometry="euclidean"), dims=8)
