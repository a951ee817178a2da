"""A run that goes back ends as one that never saw the batches; stopped anywhere around it, it is the same run."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from safetensors.torch import load_file

from planted_faults import FaultyLoader, LeapingLoader, faulty_run, loader_of
from tether.core.errors import InputError
from tether.data.loader import Loader
from tether.train import load_config, train
from tether.train.checkpoints import list_checkpoints
from tether.train.metrics_log import read_metrics
from tether.train.result import read_result
from tether.train.run import DivergedError

SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=12",
    "accumulate=2",
    "steps=9",
    "precision=fp32",
    "ema=0.9",
    "vocabulary=used",
    "threads=1",
    "save_every=2",
    "clipper={name: zclip, warmup_steps: 2}",
    "model={vision: {gate: mirror}, text: {gate: mirror}}",
    "step={terms: [objective, {name: caption, weight: 0.1}, "
    "{name: gates, rule: proportional_derivative, end: 0.3, gain: 20.0, dead_zone: 0.0}], "
    "heads: {decoder: {name: causal_decoder, width: 32, layers: 1, heads: 2}}}",
    "stages=[{steps: 2}, {steps: 7, learning_rate: 0.5, trainable: ['visual.*', 'heads.*', 'log_logit_scale']}]",
    "rollback={every: 3, window: 4, margin: 1, sustained: 2, further: 1}",
]
FAULTY = loader_of(FaultyLoader, places=range(10, 13))
"""Batches of step 5, both, and of step 6, the first; a step has two."""
GONE = ("seconds", "images_per_second")


def weights(folder):
    return load_file(folder / "model.safetensors")


def log(folder):
    records = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in GONE} for record in records]


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run that nobody stopped, by what its loss is multiplied with on bad batches."""

    @functools.cache
    def of(factor: str):
        folder = tmp_path_factory.mktemp("rollback") / "run"
        faulty_run(folder, SETTINGS, factor=float(factor), loader=FAULTY)
        return folder

    return of


@pytest.mark.parametrize("factor", ["nan", "50"])
def test_it_goes_back_once_and_ends_as_a_run_that_never_saw_the_batches(tmp_path, whole, factor):
    folder = whole(factor)
    (record,) = (record for record in log(folder) if "rollback" in record)
    told = record["rollback"]
    assert (told["to"], told["first_bad"], told["at"]) == (3, 5, 6)
    assert told["skipped_batches"] == (7 - 3 + 1) * 2
    assert len(told["losses"]) == 4
    assert [record["step"] for record in log(folder) if "loss" in record] == list(range(9))
    assert read_result(folder).rollbacks == 1
    assert read_result(folder).skipped == 0
    leap = loader_of(LeapingLoader, gap=range(6, 16))
    faulty_run(tmp_path / "clean", SETTINGS, factor=1.0, loader=leap)
    assert read_result(tmp_path / "clean").rollbacks == 0
    assert equal(weights(folder), weights(tmp_path / "clean"))
    for mine, theirs in zip((r for r in log(folder) if "loss" in r), log(tmp_path / "clean"), strict=True):
        assert mine == theirs


@pytest.mark.parametrize(("factor", "after"), [("nan", 2), ("nan", 4), ("50", 6), ("nan", 6), ("nan", 8), ("50", 10)])
def test_stopped_before_in_the_middle_or_after_it_is_the_same_run(tmp_path, whole, factor, after):
    folder = whole(factor)
    faulty_run(tmp_path / "run", SETTINGS, factor=float(factor), loader=FAULTY, stop_after=after)
    assert not (tmp_path / "run" / "summary.json").exists()
    faulty_run(tmp_path / "run", SETTINGS, factor=float(factor), loader=FAULTY)
    assert log(tmp_path / "run") == log(folder)
    assert equal(weights(tmp_path / "run"), weights(folder))


def test_a_state_at_the_border_of_a_stage_is_gone_back_to(tmp_path):
    early = loader_of(FaultyLoader, places=range(6, 10))
    faulty_run(tmp_path / "run", SETTINGS, factor=float("nan"), loader=early)
    (told,) = (record["rollback"] for record in log(tmp_path / "run") if "rollback" in record)
    assert told["to"] == 2
    for after in (5, 6):
        faulty_run(tmp_path / str(after), SETTINGS, factor=float("nan"), loader=early, stop_after=after)
        faulty_run(tmp_path / str(after), SETTINGS, factor=float("nan"), loader=early)
        assert equal(weights(tmp_path / str(after)), weights(tmp_path / "run"))
        assert log(tmp_path / str(after)) == log(tmp_path / "run")


PLAIN = [
    *(one for one in SETTINGS if not one.startswith(("step", "stages", "model", "accumulate"))),
    "step=contrastive",
]


def test_a_fault_that_stays_ends_the_run_with_advice(tmp_path):
    stays = loader_of(FaultyLoader, places=range(5, 100))
    settings = [*PLAIN, "rollback.most=2", "rollback.further=0", "steps=9"]
    with pytest.raises(DivergedError, match=r"gone back 2 times.* Lower the learning rate"):
        faulty_run(tmp_path / "run", settings, factor=float("nan"), loader=stays)
    records = log(tmp_path / "run")
    assert sum("rollback" in record for record in records) == 2
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")][-1] < "step-00000008"


def test_the_state_that_it_went_back_to_stays_on_the_disk(tmp_path):
    bad = loader_of(FaultyLoader, places=range(5, 9))
    settings = [*PLAIN, "rollback={every: 4, window: 4, margin: 1, sustained: 4}", "save_every=1", "keep=2", "steps=10"]
    faulty_run(tmp_path / "run", settings, factor=float("nan"), loader=bad, stop_after=9)
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000004"]
    faulty_run(tmp_path / "run", settings, factor=float("nan"), loader=bad)
    assert [record["step"] for record in log(tmp_path / "run") if "loss" in record] == list(range(10))


def test_nothing_bad_nothing_changes(tmp_path):
    for name, more in (("with", []), ("without", ["rollback=null"])):
        train(load_config(overrides=[*PLAIN, *more, "steps=5"]), folder=tmp_path / name, make_loader=Loader)
    assert equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert json.loads((tmp_path / "with" / "summary.json").read_text())["rollbacks"] == 0


def test_a_rule_that_never_acts_is_refused(tmp_path):
    with pytest.raises(InputError, match="rollback: sustained: expected less than max_skips, 10, got 10"):
        train(load_config(overrides=[*PLAIN, "rollback.sustained=10"]), folder=tmp_path / "run")
