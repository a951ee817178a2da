"""Claims on real photographs: stored verdicts follow from their seeds, and stored claims are those of the bench."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict

import pytest

from tether.core.errors import InputError
from tether_lab.lab import real_photos, source_index
from tether_lab.lab.card import Claim, Condition
from tether_lab.lab.history import is_commit
from tether_lab.lab.stored_result import SEEDS
from tether_lab.papers import CARDS

CLAIM = Claim(
    says="It rises.",
    metric="height, metres",
    better="higher",
    margin=0.5,
    baseline="nothing done",
    scale="a hill",
    equal="steps",
    conditions=(Condition(says="Warmth is kept.", ours="warm", than="cold", better="higher", least=-0.1),),
)
RUNS = [
    {"seed": seed, "baseline": 1.0, "ours": 2 + seed / 10, "notes": {"warm": 3.0, "cold": 3.0}, "cpu_seconds": 1.0}
    for seed in SEEDS
]


@pytest.fixture
def file(tmp_path):
    """A stored file of one row, as text."""
    found = real_photos.collected(
        {"zclip": real_photos.result(CLAIM, RUNS, differs="the hill", data={"hill.parquet": "0" * 64})}
    )
    path = tmp_path / real_photos.FILE
    path.write_text(json.dumps(found))
    return path


def test_there_are_rows_of_papers_and_their_verdicts_follow_from_their_seeds():
    rows = real_photos.stored()
    assert len(rows) >= 10
    assert set(rows) <= set(CARDS)
    assert all(is_commit(row["commit"]) for row in rows.values())


def test_the_stored_claims_are_those_of_the_bench(monkeypatch):
    monkeypatch.syspath_prepend(str(source_index.need_checkout("this test")))
    bench = importlib.import_module("benchmarks.real_photos.__main__").ROWS
    for slug, row in real_photos.stored().items():
        claim = asdict(bench[slug].claim)
        asked = [asdict(one) for one in bench[slug].claim.conditions]
        del claim["conditions"]
        assert {name: row[name] for name in claim} == claim
        assert [{name: one[name] for name in asdict(CLAIM.conditions[0])} for one in row["conditions"]] == asked
        assert row["differs"] == bench[slug].differs


def test_a_row_is_judged_and_read_back(file):
    row = real_photos.stored(path=file)["zclip"]
    assert row["verdict"] == "reproduced"
    assert row["mean"] == pytest.approx(1.2)
    assert [one["holds"] for one in row["conditions"]] == [True]
    assert row["cpu_seconds"] == 5.0
    assert row["data"] == {"hill.parquet": "0" * 64}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda row: row.update(verdict="in part"), "zclip: verdict is 'in part', its seeds give 'reproduced'"),
        (lambda row: row["seeds"][0].update(ours=0.0), "zclip: mean is"),
        (lambda row: row["conditions"][0].update(holds=False), "'Warmth is kept.': holds is False"),
        (lambda row: row["seeds"].pop(), "expected the seeds"),
        (lambda row: row["seeds"][1].update(seed=7), "expected the seeds"),
        (lambda row: row.pop("differs"), "'differs' is missing"),
        (lambda row: row.update(data={"hill.parquet": 1}), "hill.parquet: expected str, got 1"),
    ],
)
def test_a_file_that_was_changed_is_refused(file, edit, said):
    found = json.loads(file.read_text())
    edit(found["rows"]["zclip"])
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match=said):
        real_photos.stored(path=file)


def test_without_a_file_there_are_no_rows(tmp_path):
    assert real_photos.stored(path=tmp_path / real_photos.FILE) == {}
