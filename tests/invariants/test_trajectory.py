"""The same trajectory, whatever stands between its first and its last step."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from processes import tether as tether_process
from processes import wait_for
from tether.core.errors import InputError, MissingExtraError, StoppedError
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints
from tether.training.metrics_log import read_metrics
from tether.training.rollback import DivergedError

SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=16",
    "steps=8",
    "precision=fp32",
    "clipper={name: zclip, warmup_steps: 3}",
    "step={name: contrastive, keep_patches: 0.5, full_last: 0.25}",
    "augment={name: shift_scale}",
    "ema=0.9",
    "save_every=3",
    "vocabulary=used",
    "threads=1",
]


def config(*more: str):
    return load_config(overrides=[*SETTINGS, *more])


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(folder):
    return [record["loss"] for record in read_metrics(folder / "metrics.jsonl")]


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config(), folder=folder)
    return folder


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, uninterrupted, stop_after):
    folder = tmp_path / "run"
    seen = []

    def stop():
        seen.append(None)
        return len(seen) == stop_after

    with pytest.raises(StoppedError):
        train(config(), folder=folder, should_stop=stop)
    train(config(), folder=folder, resume=True)
    assert_equal(weights(folder), weights(uninterrupted))
    assert losses(folder) == losses(uninterrupted)


def test_a_killed_process_goes_on_bit_for_bit(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    child = tether_process("train", *SETTINGS, "--out", folder)
    wait_for(lambda: list_checkpoints(folder / "checkpoints"), child)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert list_checkpoints(folder / "checkpoints")
    assert not (folder / "summary.json").exists()
    train(config(), folder=folder, resume=True)
    assert_equal(weights(folder), weights(uninterrupted))
    assert losses(folder) == losses(uninterrupted)


def test_micro_batches_change_memory_and_not_the_result(tmp_path, uninterrupted):
    train(config("micro_batch=5"), folder=tmp_path / "run")
    for name, value in weights(tmp_path / "run").items():
        assert torch.allclose(value, weights(uninterrupted)[name], atol=2e-5), name


def test_a_run_folder_is_never_overwritten_without_a_word(uninterrupted):
    before = weights(uninterrupted)
    with pytest.raises(InputError, match="holds a run already"):
        train(config(), folder=uninterrupted)
    with pytest.raises(InputError, match="batch_size: the run has 16, asked for 8"):
        train(config("batch_size=8"), folder=uninterrupted, resume=True)
    assert_equal(weights(uninterrupted), before)


def test_a_finished_run_is_left_alone(uninterrupted):
    changed = (uninterrupted / "model.safetensors").stat().st_mtime_ns
    result = train(config(), folder=uninterrupted, resume=True)
    assert result.steps == 8
    assert (uninterrupted / "model.safetensors").stat().st_mtime_ns == changed
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["images_per_second"] > 0


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a run"):
        train(config(), folder=tmp_path)


def test_non_finite_gradients_skip_and_then_stop_the_run(tmp_path, monkeypatch):
    from tether.losses import ClipLoss

    plain = ClipLoss.__call__
    calls = []

    def faulty(self, out, batch, *, gather):
        loss = plain(self, out, batch, gather=gather)
        calls.append(None)
        return type(loss)(loss.total * float("nan"), loss.terms) if len(calls) in (2, 5, 6, 7) else loss

    monkeypatch.setattr(ClipLoss, "__call__", faulty)
    folder = tmp_path / "run"
    with pytest.raises(DivergedError, match="3 steps in a row"):
        train(config("max_skips=3", "ema=null"), folder=folder)
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["skipped"] for record in records] == [False, True, False, False, True, True, True]
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-00000003", "step-00000006"]
    for path in list_checkpoints(folder / "checkpoints"):
        assert all(torch.isfinite(value).all() for value in load_file(path / "model.safetensors").values())


def test_trackers_get_the_numbers_through_accelerate(tmp_path):
    train(config("steps=2", "ema=null", "trackers=[tensorboard]"), folder=tmp_path / "run")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_a_tracker_that_is_not_installed_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[track\]"):
        train(config("trackers=[wandb]"), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_can_be_loaded(tmp_path):
    import tether

    folder = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(config("ema=null"), folder=folder, should_stop=lambda: True)
    assert_equal(
        tether.load(folder).state_dict(), load_file(folder / "checkpoints" / "step-00000001" / "model.safetensors")
    )


def test_a_fixed_logit_scale_stays_where_the_model_has_it_and_a_learned_one_moves(tmp_path):
    settings = ["model={logit_scale: 50}", "steps=2", "ema=null"]
    scales = {}
    for how in ("learned", "fixed"):
        train(config(*settings, f"logit_scale={how}"), folder=tmp_path / how)
        scales[how] = float(weights(tmp_path / how)["log_logit_scale"].exp())
    assert scales["fixed"] == pytest.approx(50, rel=1e-6)
    assert scales["learned"] != scales["fixed"]
