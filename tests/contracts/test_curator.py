"""Every step a recipe can name keeps what ``CurateStep``, ``RewriteStep``, ``FlagStep`` or ``ColumnStep`` promise."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import Curator
from tether.data.curate import CURATORS, ColumnStep, CurateStep, FlagStep, RewriteStep
from tether.data.curate.engine.step import FLAG_SCHEMA, PAIR_SCHEMA
from tether.models import create
from tether.models.save import save
from tether.tasks.curate import CURATE_STEPS

pytestmark = pytest.mark.slow

MODEL = "MODEL"
"""Stands for the folder of a tiny model with random weights."""

# How a recipe would write each member, on the pool below; a curator's must keep some of it and drop some. A new member
# adds its line.
SPECS = {
    "exact_duplicates": {"name": "exact_duplicates", "of": ["text", "image"]},
    "near_duplicates": {"name": "near_duplicates", "distance": 2},
    "image_size": {"name": "image_size", "least_side": 16},
    "decodes": {"name": "decodes"},
    "text_rules": {"name": "text_rules", "characters": [3, 12]},
    "tidy_text": {"name": "tidy_text"},
    "language": {"name": "language", "languages": ["en", "de"], "column": "language"},
    "metaclip": {"name": "metaclip", "entries": ["red", "blue", "fox", "dog", "blue dog", "owl"], "t": 8},
    "metaclip2": {
        "name": "metaclip2",
        "entries": {"en": ["red", "blue", "fox", "dog"], "de": ["red", "owl", "blue dog"], "other": ["owl", "dog"]},
        "t": 8,
        "language": "language",
    },
    "number_mask": {"name": "number_mask"},
    "embedding_duplicates": {"name": "embedding_duplicates", "model": MODEL, "threshold": 0.99},
    "parrot": {"name": "parrot", "drop": "text", "words": "language"},
    "clip_score": {"name": "clip_score", "model": MODEL, "text_transform": ["mask_numbers"]},
    "quality": {"name": "quality", "model": MODEL, "fraction": 0.5, "grid": 1},
    "safety": {"name": "safety", "model": MODEL, "threshold": 0.5},
    "mask_pairs": {"name": "mask_pairs", "model": MODEL, "proposals": "language"},
    "rewrite_captions": {"name": "rewrite_captions", "count": 2},
}

# (member, check) -> why it may fail. Nothing does today.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def image(rng: random.Random) -> bytes | None:
    """A small PNG of one of few colours and sizes, no image, or bytes that are none."""
    kind = rng.random()
    if kind < 0.05:
        return None
    if kind < 0.1:
        return b"no image"
    file = io.BytesIO()
    size = rng.choice([(8, 8), (16, 8), (32, 32), (64, 8)])
    pixels = np.random.default_rng(rng.randrange(12)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pool(rows: int = 300, *, seed: int = 0) -> pa.RecordBatch:
    rng = random.Random(seed)
    words = ["red"] * 20 + ["blue"] * 8 + ["dog"] * 4 + ["fox", "owl", "???", "", "a photo", "IMG_20240131.jpg"]
    texts = [None if rng.random() < 0.05 else " ".join(rng.choices(words, k=rng.randint(0, 3))) for _ in range(rows)]
    pairs = pa.record_batch([[f"row {i}" for i in range(rows)], texts], schema=PAIR_SCHEMA)
    pairs = pairs.append_column("image", pa.array([image(rng) for _ in range(rows)], pa.binary()))
    spoken = pa.array([rng.choice(["en", "de", "zh", None]) for _ in range(rows)], pa.string())
    return pairs.append_column("language", spoken)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save(create("tiny"), folder / "model")
    return str(folder / "model")


@pytest.fixture
def fresh(model_folder):
    def make(name: str):
        spec = {key: model_folder if value == MODEL else value for key, value in SPECS[name].items()}
        return build(spec, CURATE_STEPS, where="test")

    return make


def members(method: str) -> list[str]:
    """Steps that have a method, which tells the kinds apart."""
    return sorted(name for name, part in CURATE_STEPS.items() if hasattr(part, method))


@pytest.fixture(params=members("keep"))
def name(request) -> str:
    return request.param


@pytest.fixture(params=members("map"))
def rewriter(request) -> str:
    return request.param


@pytest.fixture(params=members("columns_of"))
def adder(request) -> str:
    return request.param


@pytest.fixture(params=members("flag"))
def flagger(request) -> str:
    return request.param


def checked(name: str, check: str) -> None:
    reason = EXCEPTIONS.get((name, check))
    if reason:
        pytest.xfail(reason)


def test_every_step_is_of_one_kind():
    kinds = [members("keep"), members("map"), members("flag"), members("columns_of")]
    assert sorted(itertools.chain(*kinds)) == sorted(CURATE_STEPS)
    assert CURATORS.items() <= CURATE_STEPS.items()


def test_every_member_has_a_spec_and_is_a_step(name, fresh):
    step = fresh(name)
    assert isinstance(step, Curator)
    assert isinstance(step, CurateStep)
    assert isinstance(step, CURATE_STEPS[name])
    assert step.refusal
    assert step.counts in ("pool", "nothing")
    json.dumps(step.settings)


def test_merge_is_free_of_order_and_split(name, fresh):
    checked(name, "merge")
    rows = pool()
    whole = fresh(name).partial_fit(rows)
    expected = whole.keep(rows)
    rng = random.Random(1)
    for _ in range(5):
        cuts = sorted(rng.sample(range(1, rows.num_rows), 4))
        edges = [0, *cuts, rows.num_rows]
        parts = [rows.slice(a, b - a) for a, b in itertools.pairwise(edges)]
        rng.shuffle(parts)
        shards = [fresh(name).partial_fit(part) for part in parts[:3]]
        total = fresh(name).empty()
        for shard in shards:
            total.merge(shard)
        for part in parts[3:]:
            total.partial_fit(part)
        np.testing.assert_array_equal(total.keep(rows), expected)
        assert total.report() == whole.report()


def test_probability_of_a_row_is_its_own(name, fresh):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    chance = step.keep(rows)
    assert chance.shape == (rows.num_rows,)
    assert chance.dtype == np.float64
    assert ((chance >= 0) & (chance <= 1)).all()
    assert 0 < chance.mean() < 1
    for index in (0, 7, 123):
        assert step.keep(rows.slice(index, 1)).tolist() == [chance[index]]
    assert len(step.keep(rows.slice(0, 0))) == 0


def test_keep_changes_nothing(name, fresh):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    before = step.report()
    first = step.keep(rows)
    np.testing.assert_array_equal(step.keep(rows), first)
    assert step.report() == before


def test_counting_goes_on_after_keep(name, fresh):
    rows, more = pool(), pool(seed=5)
    step = fresh(name).partial_fit(rows)
    step.keep(rows)
    step.partial_fit(more)
    both = fresh(name).partial_fit(more).partial_fit(rows)
    np.testing.assert_array_equal(step.keep(rows), both.keep(rows))


def test_state_survives_a_file(name, fresh):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    file = io.BytesIO()
    np.savez(file, **step.state_dict())
    file.seek(0)
    with np.load(file, allow_pickle=False) as saved:
        state = {key: saved[key].item() if saved[key].ndim == 0 else saved[key] for key in saved.files}
    other = fresh(name)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.keep(rows), step.keep(rows))
    assert other.report() == step.report()
    other.merge(step)
    assert other.report() == fresh(name).partial_fit(rows).partial_fit(rows).report()


def test_empty_shares_nothing_that_counts(name, fresh):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    before = step.report()
    step.empty().partial_fit(pool(seed=9))
    assert step.report() == before
    assert step.empty().settings == step.settings


def test_travels_to_workers(name, fresh):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    for other in (pickle.loads(pickle.dumps(step)), copy.deepcopy(step)):
        np.testing.assert_array_equal(other.keep(rows), step.keep(rows))


def test_keep_before_counting_is_refused_or_counting_is_nothing(name, fresh):
    checked(name, "keep before counting")
    step, rows = fresh(name), pool()
    if step.counts == "pool":
        with pytest.raises(InputError):
            step.keep(rows)
        return
    chance = step.keep(rows)
    assert step.partial_fit(rows) is step
    assert step.state_dict() == {}
    np.testing.assert_array_equal(step.merge(fresh(name)).keep(rows), chance)


def test_missing_column_is_refused(name, fresh):
    step = fresh(name)
    rows = pa.record_batch({"key": ["a"], "words": ["dog"]})
    with pytest.raises(InputError, match="|".join(["text", *step.columns])):
        step.partial_fit(rows) if step.counts == "pool" else step.keep(rows)


def test_unknown_setting_is_refused():
    for name, spec in SPECS.items():
        with pytest.raises(InputError, match="unknown key 'no such'"):
            build({**spec, "no such": 3}, CURATE_STEPS, where=f"recipe.yaml: {name}")


def test_a_rewriter_is_a_function_of_the_pair(rewriter, fresh):
    step, rows = fresh(rewriter), pool()
    assert isinstance(step, RewriteStep)
    assert step.gives in ("one", "several")
    json.dumps(step.settings)
    lists = step.map(rows)
    assert lists.null_count == 0
    assert lists.type.value_type == pa.string()
    given = lists.to_pylist()
    assert len(given) == rows.num_rows
    for texts, before in zip(given, rows.column("text").to_pylist(), strict=True):
        assert len(texts) == 1 if before is None or step.gives == "one" else len(texts) >= 1
        assert (texts == [None]) == (before is None)
        assert before is None or None not in texts
    assert any(texts != [before] for texts, before in zip(given, rows.column("text").to_pylist(), strict=True))
    for other in (step, pickle.loads(pickle.dumps(step))):
        assert other.map(rows.slice(40, 11)).to_pylist() == given[40:51]
    assert len(step.map(rows.slice(0, 0))) == 0
    with pytest.raises(InputError, match="|".join(["text", *step.columns])):
        step.map(pa.record_batch({"key": ["a"], "words": ["dog"]}))


def test_a_flag_is_a_function_of_the_pair(flagger, fresh):
    step, rows = fresh(flagger), pool()
    assert isinstance(step, FlagStep)
    json.dumps(step.settings)
    flags = step.flag(rows)
    assert flags.schema == FLAG_SCHEMA
    assert flags.num_rows == rows.num_rows
    for other in (step, pickle.loads(pickle.dumps(step))):
        some = other.flag(rows.slice(40, 11))
        assert some.column("label").to_pylist() == flags.column("label").to_pylist()[40:51]
        np.testing.assert_allclose(
            np.array(some.column("score").to_pylist(), float),
            np.array(flags.column("score").to_pylist()[40:51], float),
            rtol=1e-5,
        )
    assert step.flag(rows.slice(0, 0)).num_rows == 0
    with pytest.raises(InputError, match="|".join(["text", *step.columns])):
        step.flag(pa.record_batch({"key": ["a"], "words": ["dog"]}))


def test_other_settings_do_not_merge():
    one = build({"name": "metaclip", "entries": ["dog"], "t": 1}, CURATORS, where="test")
    other = build({"name": "metaclip", "entries": ["fox"], "t": 1}, CURATORS, where="test")
    with pytest.raises(InputError, match="do not fit"):
        one.merge(other)
    with pytest.raises(InputError, match="do not fit"):
        one.load_state_dict(other.partial_fit(pool()).state_dict())


def test_pool_without_any_match_is_refused():
    step = build({"name": "metaclip", "entries": ["zebra"], "t": 1}, CURATORS, where="test").partial_fit(pool())
    with pytest.raises(InputError, match="none of the 300 captions holds any of the 1 entries"):
        step.keep(pool())


def test_added_columns_are_a_function_of_the_row(adder, fresh):
    step, rows = fresh(adder), pool(60)
    assert isinstance(step, ColumnStep)
    json.dumps(step.settings)
    read = rows.select(list(step.columns))
    texts = pa.array(
        [[] if text is None else [text] for text in rows.column("text").to_pylist()], pa.list_(pa.string())
    )
    whole = step.columns_of(read, texts)
    assert whole.schema == step.adds
    assert whole.num_rows == rows.num_rows
    for other in (step, pickle.loads(pickle.dumps(step))):
        some = other.columns_of(read.slice(20, 11), texts.slice(20, 11))
        assert some.to_pylist() == whole.slice(20, 11).to_pylist()
    assert step.columns_of(read.slice(0, 0), texts.slice(0, 0)).num_rows == 0
