"""Every member of ``data.curate.CURATORS`` keeps what ``Curator`` and ``CurateStep`` promise."""

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

from tether.core.errors import InputError
from tether.core.protocols import Curator
from tether.core.spec import build
from tether.data.curate import CURATORS, CurateStep
from tether.data.curate.step import PAIR_SCHEMA

# How a recipe would write each member, on words of the pool below. A new member adds its line.
SPECS = {"metaclip": {"name": "metaclip", "entries": ["red", "blue", "fox", "dog", "blue dog", "owl"], "t": 8}}

# (member, check) -> why it may fail. Nothing does today.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def pool(rows: int = 300, *, seed: int = 0) -> pa.RecordBatch:
    rng = random.Random(seed)
    words = ["red"] * 20 + ["blue"] * 8 + ["dog"] * 4 + ["fox", "owl", "???", "", "a photo"]
    texts = [None if rng.random() < 0.05 else " ".join(rng.choices(words, k=rng.randint(0, 3))) for _ in range(rows)]
    return pa.record_batch([[f"row {i}" for i in range(rows)], texts], schema=PAIR_SCHEMA)


def fresh(name: str) -> CurateStep:
    return build(SPECS[name], CURATORS, where="test")


@pytest.fixture(params=sorted(CURATORS))
def name(request) -> str:
    return request.param


def checked(name: str, check: str) -> None:
    reason = EXCEPTIONS.get((name, check))
    if reason:
        pytest.xfail(reason)


def test_every_member_has_a_spec_and_is_a_step(name):
    step = fresh(name)
    assert isinstance(step, Curator)
    assert isinstance(step, CurateStep)
    assert isinstance(step, CURATORS[name])
    assert step.refusal
    json.dumps(step.settings)


def test_merge_is_free_of_order_and_split(name):
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


def test_probability_of_a_row_is_its_own(name):
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


def test_keep_changes_nothing(name):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    before = step.report()
    first = step.keep(rows)
    np.testing.assert_array_equal(step.keep(rows), first)
    assert step.report() == before


def test_counting_goes_on_after_keep(name):
    rows, more = pool(), pool(seed=5)
    step = fresh(name).partial_fit(rows)
    step.keep(rows)
    step.partial_fit(more)
    both = fresh(name).partial_fit(more).partial_fit(rows)
    np.testing.assert_array_equal(step.keep(rows), both.keep(rows))


def test_state_survives_a_file(name):
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


def test_empty_shares_nothing_that_counts(name):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    before = step.report()
    step.empty().partial_fit(pool(seed=9))
    assert step.report() == before
    assert step.empty().settings == step.settings


def test_travels_to_workers(name):
    rows = pool()
    step = fresh(name).partial_fit(rows)
    for other in (pickle.loads(pickle.dumps(step)), copy.deepcopy(step)):
        np.testing.assert_array_equal(other.keep(rows), step.keep(rows))


def test_keep_before_counting_is_refused(name):
    checked(name, "keep before counting")
    with pytest.raises(InputError):
        fresh(name).keep(pool())


def test_missing_column_is_refused(name):
    with pytest.raises(InputError, match="text"):
        fresh(name).partial_fit(pa.record_batch({"key": ["a"], "words": ["dog"]}))


def test_unknown_setting_is_refused(name):
    with pytest.raises(InputError, match="unknown key 'threshold'"):
        build({**SPECS[name], "threshold": 3}, CURATORS, where="recipe.yaml: steps[0]")


def test_other_settings_do_not_merge():
    one = build({"name": "metaclip", "entries": ["dog"], "t": 1}, CURATORS, where="test")
    other = build({"name": "metaclip", "entries": ["fox"], "t": 1}, CURATORS, where="test")
    with pytest.raises(InputError, match="cannot add counts"):
        one.merge(other)
    with pytest.raises(InputError, match="do not fit"):
        one.load_state_dict(other.partial_fit(pool()).state_dict())


def test_pool_without_any_match_is_refused():
    step = build({"name": "metaclip", "entries": ["zebra"], "t": 1}, CURATORS, where="test").partial_fit(pool())
    with pytest.raises(InputError, match="none of the 300 captions holds any of the 1 entries"):
        step.keep(pool())
