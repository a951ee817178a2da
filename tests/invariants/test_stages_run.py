"""A run in stages, with a decoder of its own, goes on from any step as if it had never stopped."""

from __future__ import annotations

import functools
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from processes import tether as tether_process
from processes import wait_for
from tether.core.errors import StoppedError
from tether.training import load_config, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics

SETTINGS = [
    "data={name: emoji, split: validation, size: 32}",
    "size=tiny",
    "batch_size=12",
    "accumulate=2",
    "micro_batch=5",
    "steps=7",
    "precision=fp32",
    "ema=0.9",
    "vocabulary=used",
    "threads=1",
    "clipper={name: zclip, warmup_steps: 2}",
    "model={vision: {gate: mirror}, text: {gate: mirror}}",
    "step={terms: [objective, {name: caption, weight: 0.1}, "
    "{name: gates, rule: proportional_derivative, end: 0.3, gain: 20.0, dead_zone: 0.0}], "
    "heads: {decoder: {name: causal_decoder, width: 32, layers: 1, heads: 2}}}",
    "stages=[{steps: 3}, {steps: 2, batch_size: 8, learning_rate: 0.5, trainable: ['visual.*', 'heads.*']}, "
    "{steps: 2, step: contrastive, data: 'emoji:split=test,size=32'}]",
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped after so many steps, and its checkpoint."""

    @functools.cache
    def at(after: int):
        folder, seen = tmp_path_factory.mktemp("stopped") / "run", []

        def stop() -> bool:
            seen.append(None)
            return len(seen) == after

        with pytest.raises(StoppedError):
            train(load_config(overrides=SETTINGS), folder=folder, should_stop=stop)
        return folder, load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])

    return at


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "run"
    train(load_config(overrides=SETTINGS), folder=folder)
    return folder


@pytest.mark.parametrize("after", [3, 4, *[pytest.param(after, marks=pytest.mark.nightly) for after in (5, 6)]])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, whole, stopped, after):
    shutil.copytree(stopped(after)[0], tmp_path / "run")
    train(load_config(overrides=SETTINGS), folder=tmp_path / "run", resume=True)
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    records = [list(read_metrics(folder / "metrics.jsonl")) for folder in (tmp_path / "run", whole)]
    for key in ("loss", "lr", "grad_norm", "caption", "image_gate_penalty", "text_gate"):
        assert [record.get(key) for record in records[0]] == [record.get(key) for record in records[1]]


def test_a_process_that_is_killed_at_a_border_goes_on_bit_for_bit(tmp_path, whole):
    child = tether_process("train", *SETTINGS, "save_every=3", "--out", tmp_path / "run")
    wait_for(lambda: list_checkpoints(tmp_path / "run" / "checkpoints"), child)
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0]).step == 3  # the first stage's end
    train(load_config(overrides=[*SETTINGS, "save_every=3"]), folder=tmp_path / "run", resume=True)
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_each_stage_moves_what_it_says(stopped):
    first, second, third = (stopped(after)[1] for after in (3, 5, 6))

    def moved(one, other, group: str) -> set[str]:
        left, right = one.tensors[group], other.tensors[group]
        return {name for name in left if not torch.equal(left[name], right[name])}

    gates = second.state["step"]["gates"]["controllers"]
    assert sorted(gates) == ["image", "text"]
    assert gates["image"]["mean"]["weight"].any()
    assert moved(first, second, "heads")
    changed = moved(first, second, "model")
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    assert "heads" not in third.tensors
    assert any(name.startswith("text.") for name in moved(second, third, "model"))
    assert any(name.startswith("heads.decoder.") for name in second.tensors["optimizer"])
    assert any(name.startswith("heads.decoder.") for name in second.tensors["ema"])


def test_the_log_and_the_model_know_no_stage(whole):
    records = list(read_metrics(whole / "metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(7))
    assert ["caption" in record for record in records] == [True] * 5 + [False] * 2
    assert records[3]["lr"] < 0.6 * records[2]["lr"]
    assert not any("decoder" in name for name in load_file(whole / "model.safetensors"))
