"""``tether train --clipper compare``: equal weights and batches for every clipper, and advice by a stated rule."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tether.core.errors import InputError, StoppedError
from tether.data.loader import Loader
from tether.optim.clip import CLIPPERS
from tether.training import RunConfig, train
from tether.training.metrics_log import read_metrics
from tether.training.run_files import CHECKPOINTS, COMPARE, COMPARE_JSON, COMPARE_PAGE, METRICS
from tether.workflows.clipper_comparison import compare as own_run
from tether.workflows.clipper_comparison.compare import candidates, compare
from tether.workflows.clipper_comparison.report import MATTERS, Comparison, Seen, advise, look, report
from tether.workflows.clipper_comparison.trace import RunTrace

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Three clippers are enough for the mechanics."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in [name for name in CLIPPERS if name not in ("none", "global_norm", "zclip")]:
        monkeypatch.delitem(CLIPPERS._registered, name)
    yield
    torch.set_num_threads(before)


def config(**changes) -> RunConfig:
    values = {
        "size": "tiny",
        "data": "emoji:size=32",
        "batch_size": 8,
        "steps": 60,
        "precision": "fp32",
        "clipper": {"name": "global_norm", "max_norm": 0.5},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "cosine", "warmup": 5},
    }
    return RunConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in CLIPPERS if name not in ("none", "global_norm", "zclip")]:
            patch.delitem(CLIPPERS._registered, name)
        found, traces = compare(config(), folder=folder, steps=STEPS)
    return folder, found, report("run", found, traces).html()


def test_every_clipper_sees_the_same_first_step_and_leaves_its_log(done):
    folder, found, _ = done
    logs = {one.name: read_metrics(folder / COMPARE / one.name / METRICS) for one in found.seen}
    assert list(logs) == ["none", "global_norm", "zclip"]
    assert {len(log) for log in logs.values()} == {STEPS}
    assert len({log[0]["loss"] for log in logs.values()}) == 1
    assert len({log[-1]["loss"] for log in logs.values()}) > 1
    assert len({log[-1]["lr"] for log in logs.values()}) == 1


def test_they_are_the_first_steps_of_the_run_itself(done, tmp_path):
    folder, found, _ = done
    stop = iter(range(STEPS)).__next__
    with pytest.raises(StoppedError):
        train(config(), folder=tmp_path / "run", should_stop=lambda: stop() == STEPS - 1)
    own = read_metrics(folder / COMPARE / found.own / METRICS)
    real = read_metrics(tmp_path / "run" / METRICS)
    assert [row["loss"] for row in own] == [row["loss"] for row in real]
    assert [row["lr"] for row in own] == [row["lr"] for row in real]


def test_the_recipes_clipper_keeps_its_settings(done):
    _, found, _ = done
    seen = {one.name: one for one in found.seen}
    assert found.own == "global_norm"
    assert seen["global_norm"].threshold == 0.5
    assert seen["global_norm"].less == 0
    assert seen["none"].threshold is None
    assert seen["none"].clipped == 0
    assert all(one.cost > 0 for one in found.seen)
    assert found.peak == 1


def test_what_is_written(done):
    folder, found, html = done
    values = json.loads((folder / COMPARE_JSON).read_text())
    assert values["advice"] == list(found.advice)
    assert values["seen"][1]["spec"] == {"name": "global_norm", "max_norm": 0.5}
    assert not list(folder.rglob(CHECKPOINTS))
    assert not list(folder.rglob("*.safetensors"))
    assert "http" not in html
    assert "global_norm (yours)" in html
    assert html.count('class="plot"') == 6


def test_the_run_can_be_started_in_the_same_folder(done):
    folder, _, html = done
    (folder / COMPARE_PAGE).write_text(html)
    result = train(config(steps=1), folder=folder)
    assert result.steps == 1


def test_an_interrupted_comparison_goes_on_bit_for_bit(done, tmp_path, monkeypatch):
    _, whole, _ = done
    made = []
    monkeypatch.setattr(own_run, "Loader", lambda *given, **named: made.append(1) or Loader(*given, **named))
    calls = iter(range(1000)).__next__
    with pytest.raises(
        StoppedError, match="stopped while comparing clippers; go on with the same command with --resume"
    ):
        compare(config(), folder=tmp_path / "run", steps=STEPS, should_stop=lambda: calls() == STEPS + 6)
    names: list[str] = []
    seen: list[int] = []
    found, _ = compare(
        config(),
        folder=tmp_path / "run",
        steps=STEPS,
        resume=True,
        on_start=lambda name, number, of: names.append(name),
        on_record=lambda record: seen.append(record["step"]),
    )
    assert names == ["none", "global_norm", "zclip"]
    assert len(seen) < 2 * STEPS
    assert len(made) == 2  # once for each command: the data are read once
    assert [one.loss for one in found.seen] == [one.loss for one in whole.seen]
    with pytest.raises(InputError, match="holds a comparison already; go on with --resume"):
        compare(config(), folder=tmp_path / "run", steps=STEPS)
    with pytest.raises(InputError, match=r"with other settings: batch_size, --compare-steps"):
        compare(config(batch_size=16), folder=tmp_path / "run", steps=STEPS + 1, resume=True)


def test_a_clipper_that_diverges_does_not_stop_the_others(tmp_path):
    wild = config(max_skips=2, clipper="none", optimizer={"name": "sgd", "lr": 1e29}, schedule="constant", steps=STEPS)
    found, _ = compare(wild, folder=tmp_path / "run", steps=STEPS)
    none = next(one for one in found.seen if one.name == "none")
    assert none.diverged.startswith("step ")
    assert none.loss is None
    assert none.steps < STEPS
    assert len(found.seen) == 3
    assert any("Gradients were not finite for too long with none" in line for line in found.advice)


@pytest.mark.parametrize(
    ("settings", "steps", "message"),
    [
        ({}, 5, "--compare-steps: expected at least 20, in a run of at least as many; got 5"),
        ({"steps": 10}, 100, "got 10"),
        ({"clipper": "zclop"}, 20, "clipper: unknown part 'zclop'; did you mean 'zclip'"),
        ({"clipper": {"name": "zclip", "alfa": 1}}, 20, "unknown key 'alfa'"),
    ],
)
def test_bad_input_is_told_before_anything_is_read(tmp_path, settings, steps, message):
    with pytest.raises(InputError, match=message):
        compare(config(**settings), folder=tmp_path / "run", steps=steps)
    assert not (tmp_path / "run").exists()


def test_candidates_are_all_there_are():
    own = {"name": "zclip", "alpha": 0.9}
    assert candidates(own, CLIPPERS) == {"none": "none", "global_norm": "global_norm", "zclip": own}


def trace(losses: list[float | None]) -> RunTrace:
    n = len(losses)
    return RunTrace(tuple(losses), (2.0,) * n, (1.0,) * n, (0.5,) * n, ())


@pytest.mark.parametrize(
    ("last", "diverged", "loss"),
    [
        ([2.0] * 10, "", 2.0),
        ([None] + [2.0] * 9, "", 2.0),
        ([None] * 6 + [2.0] * 4, "", None),
        ([2.0] * 10, "step 3", None),
    ],
)
def test_look_reads_a_trace(last, diverged, loss):
    one = trace([3.0] * 30 + last)
    seen = look("zclip", "zclip", one, cost=0.5, beside=trace([3.0] * 40), diverged=diverged)
    assert (seen.loss, seen.clipped, seen.largest, seen.usual, seen.threshold) == (loss, 1.0, 2.0, 2.0, 1.0)


def seen(name: str, *, loss: float | None = 2.0, less: float | None = 0.0, **changes) -> Seen:
    one = Seen(name, name, 100, loss, less, 0.001, 0, 0, 0.1, 3.0, 1.0, 1.0, 0.5, "")
    return replace(one, **changes)


def answer(*others: Seen, own: Seen | None = None, peak: float = 1.0) -> list[str]:
    return advise(Comparison(100, "global_norm", peak, (own or seen("global_norm"), *others), ()))


class TestAdvice:
    def test_no_difference(self):
        assert answer(seen("zclip", loss=1.99, less=-0.01)) == [
            "No difference that matters: keep what you have, clipper=global_norm."
        ]

    def test_lower_by_enough_and_surely(self):
        lines = answer(seen("zclip", loss=1.9, less=-0.1), seen("agc", loss=1.89, less=-0.11, cost=1.3))
        assert lines[0].startswith("Try clipper=zclip (agc: as good): over the last 20 of 100 steps the loss was 5.0%")
        assert "keep what you have" in answer(seen("zclip", loss=1.9, less=-0.1, error=0.06))[0]
        edge = 2 * MATTERS
        assert "keep what you have" in answer(seen("zclip", loss=2 - edge + 0.001, less=-edge + 0.001))[0]

    def test_calmer_at_no_worse_a_loss(self):
        own = seen("global_norm", spikes=3, skipped=1)
        assert (
            "but zclip had 0 spikes and 0 skipped steps where global_norm had 3 and 1"
            in answer(seen("zclip"), own=own)[0]
        )
        assert "keep what you have" in answer(seen("zclip", loss=2.2, less=0.2), own=own)[0]

    def test_the_recipes_own_one_failed(self):
        own = seen("global_norm", loss=None, less=None, diverged="step 7")
        assert "global_norm diverged and it did not" in answer(seen("zclip"), own=own)[0]
        lines = answer(seen("zclip", loss=None, less=None, diverged="step 7"), own=own)
        assert lines[0].startswith("Every clipper failed as global_norm did")

    def test_what_else_is_worth_knowing(self):
        lines = answer(own=seen("global_norm", clipped=0.9), peak=0.4)
        assert "clipped 90% of the steps" in lines[1]
        assert "40% of its peak" in lines[2]
