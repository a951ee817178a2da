"""A run that goes back ends as one that never saw the batches; stopped or killed anywhere around it, it is the same."""

from __future__ import annotations

import functools
import json
import signal

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker
from safetensors.torch import load_file

from planted_faults import FaultyLoader, LeapingLoader, faulty_run, killed_run, loader_of
from processes import Child
from tether.core.errors import InputError
from tether.data.loader import Loader
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints
from tether.training.metrics_log import read_metrics
from tether.training.result import read_result
from tether.training.rollback import DivergedError

TOWER = "width: 16, hidden: 16, heads: 1, layers: 2"
PLAIN = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    f"model={{dim: 16, vision: {{{TOWER}, patch: 16}}, text: {{{TOWER}}}}}",
    "batch_size=4",
    "steps=9",
    "precision=fp32",
    "ema=0.9",
    "vocabulary=used",
    "threads=1",
    "save_every=2",
    "clipper={name: zclip, warmup_steps: 2}",
    "rollback={every: 3, window: 4, margin: 1, sustained: 2, further: 1}",
]
STAGED = [
    *PLAIN,
    "accumulate=2",
    "stages=[{steps: 2}, {steps: 7, learning_rate: 0.5, trainable: ['visual.*', 'log_logit_scale']}]",
]
WHOLE = [
    *PLAIN,
    f"model={{dim: 16, vision: {{{TOWER}, patch: 16, gate: mirror}}, text: {{{TOWER}, gate: mirror}}}}",
    "accumulate=2",
    "step={terms: [objective, {name: caption, weight: 0.1}, "
    "{name: gates, rule: proportional_derivative, end: 0.3, gain: 20.0, dead_zone: 0.0}], "
    "heads: {decoder: {name: causal_decoder, width: 8, layers: 1, heads: 1}}}",
    "stages=[{steps: 2}, {steps: 7, learning_rate: 0.5, trainable: ['visual.*', 'heads.*', 'log_logit_scale']}]",
]
"""What a run may hold besides weights: a step that learns, heads, frozen parts, an average, two stages."""
BAD = range(10, 13)
"""Batches of step 5, both, and of step 6, the first; a step has two."""
FAULTY = loader_of(FaultyLoader, places=BAD)
GONE = ("seconds", "images_per_second")


def weights(folder):
    return load_file(folder / "model.safetensors")


def log(folder):
    records = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in GONE} for record in records]


def assert_equal(left, right) -> None:
    """The same weights, bit for bit, and the same log."""
    mine, theirs = weights(left), weights(right)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert log(left) == log(right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run that nobody stopped, by its settings and the factor of its loss on bad batches."""

    @functools.cache
    def of(factor: str, settings: str = "WHOLE"):
        folder = tmp_path_factory.mktemp("rollback") / "run"
        loader = loader_of(LeapingLoader, gap=range(6, 16)) if factor == "1" else FAULTY
        faulty_run(folder, globals()[settings], factor=float(factor), loader=loader)
        return folder

    return of


@pytest.mark.parametrize("factor", ["nan", "50"])
def test_it_goes_back_once_and_ends_as_a_run_that_never_saw_the_batches(whole, factor):
    folder, clean = whole(factor), whole("1")
    (record,) = (record for record in log(folder) if "rollback" in record)
    told = record["rollback"]
    assert (told["to"], told["first_bad"], told["at"]) == (3, 5, 6)
    assert told["skipped_batches"] == (7 - 3 + 1) * 2
    assert len(told["losses"]) == 4
    assert [record["step"] for record in log(folder) if "loss" in record] == list(range(9))
    assert read_result(folder).rollbacks == 1
    assert read_result(folder).skipped == 0
    assert read_result(clean).rollbacks == 0
    mine, theirs = weights(folder), weights(clean)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert [record for record in log(folder) if "loss" in record] == log(clean)


@pytest.mark.parametrize(
    ("factor", "after"),
    [pytest.param("50", 6, marks=pytest.mark.nightly), ("nan", 7), pytest.param("nan", 10, marks=pytest.mark.nightly)],
)
def test_stopped_before_in_the_middle_or_after_it_is_the_same_run(tmp_path, whole, factor, after):
    faulty_run(tmp_path / "run", WHOLE, factor=float(factor), loader=FAULTY, stop_after=after)
    assert not (tmp_path / "run" / "summary.json").exists()
    faulty_run(tmp_path / "run", WHOLE, factor=float(factor), loader=FAULTY)
    assert_equal(tmp_path / "run", whole(factor))


@pytest.mark.parametrize(
    ("call", "late"),
    [
        pytest.param("read_metrics", False, id="before the state is saved"),
        pytest.param("remove_after", False, id="before later checkpoints go"),
        pytest.param("remove_after", True, id="before it is logged"),
    ],
)
def test_killed_while_it_goes_back_it_is_the_same_run(tmp_path, whole, call, late):
    child = Child(killed_run, tmp_path / "run", STAGED, float("nan"), BAD, call, late)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    faulty_run(tmp_path / "run", STAGED, factor=float("nan"), loader=FAULTY)
    assert_equal(tmp_path / "run", whole("nan", "STAGED"))


def test_a_state_at_the_border_of_a_stage_is_gone_back_to(tmp_path):
    early = loader_of(FaultyLoader, places=range(6, 10))
    faulty_run(tmp_path / "run", STAGED, factor=float("nan"), loader=early)
    (told,) = (record["rollback"] for record in log(tmp_path / "run") if "rollback" in record)
    assert told["to"] == 2
    faulty_run(tmp_path / "stopped", STAGED, factor=float("nan"), loader=early, stop_after=5)
    faulty_run(tmp_path / "stopped", STAGED, factor=float("nan"), loader=early)
    assert_equal(tmp_path / "stopped", tmp_path / "run")


class NoWayBack(TensorBoardTracker):
    """Refuses, as wandb does, a step before the last one."""

    def log(self, values, step=None, **more):
        last = getattr(self, "last", -1)
        assert (step or 0) >= last, f"step {step} after {last}"
        self.last = step
        super().log(values, step=step, **more)


def test_trackers_see_undone_steps_and_the_way_back(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", NoWayBack)
    bad = loader_of(FaultyLoader, places=range(5, 7))
    faulty_run(tmp_path / "run", [*PLAIN, "trackers=[tensorboard]"], factor=50.0, loader=bad)
    events = EventAccumulator(str(tmp_path / "run" / "run")).Reload()

    def drawn(name):
        return [(one.step, one.value) for one in events.Scalars(name)]

    assert drawn("run_step") == [*enumerate([0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7, 8])]
    assert [step for step, _ in drawn("loss")] == [*range(13)]
    assert drawn("rollbacks")[5:9] == [(5, 0.0), (6, 0.0), (6, 1.0), (7, 1.0)]


def test_a_fault_that_stays_ends_the_run_with_advice(tmp_path):
    stays = loader_of(FaultyLoader, places=range(5, 100))
    settings = [*PLAIN, "rollback.most=2", "rollback.further=0"]
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
    assert_equal(tmp_path / "with", tmp_path / "without")
    assert json.loads((tmp_path / "with" / "summary.json").read_text())["rollbacks"] == 0


def test_a_rule_that_never_acts_is_refused(tmp_path):
    with pytest.raises(InputError, match="rollback: sustained: expected less than max_skips, 10, got 10"):
        train(load_config(overrides=[*PLAIN, "rollback.sustained=10"]), folder=tmp_path / "run")
