"""TROLL inside TRL's GRPO trainer, on a tiny model and questions whose answers can be checked."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tether.core.errors import InputError, MissingExtraError
from tether.methods.troll.loss import TROLLLoss
from tether.methods.troll.sparse_policy import SparseDist
from tether_lab.worlds import verifiable

pytestmark = pytest.mark.slow

trl = pytest.importorskip("trl", reason="needs tether-clip[llm]")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 32,
        "num_generations": 8,
        "max_completion_length": verifiable.LENGTH,
        "num_iterations": 4,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "temperature": 0.9,
        "seed": 3,
    }


def build(settings: dict[str, Any], **more: Any):
    from tether.methods.troll.trl import TROLLConfig, TROLLTrainer

    return TROLLTrainer(
        model=verifiable.model(seed=0),
        reward_funcs=verifiable.right_places,
        args=TROLLConfig(**{**settings, **more}),
        train_dataset=verifiable.questions(),
        processing_class=verifiable.tokenizer(),
    )


def test_each_step_takes_its_loss_from_the_part(settings, monkeypatch):
    trainer = build(settings, troll_eps=0.001, troll_alpha=0.5, gradient_accumulation_steps=2, max_steps=3)
    losses, expected = [], []
    inherited = trainer._compute_loss

    def watched(model, inputs):
        loss = inherited(model, inputs)
        losses.append(loss.item())
        with torch.no_grad():
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            length = inputs["completion_ids"].shape[1]
            logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1] / 0.9
            old = SparseDist(*(inputs[f"troll_{name}"] for name in ("ids", "logp", "tail", "mass")), logits.shape[-1])
            loss = TROLLLoss(eps=0.001, alpha=0.5)(
                logits, old, inputs["completion_ids"], inputs["advantages"], inputs["completion_mask"]
            )
        expected.append(loss.total.item() / 2)
        return inherited(model, inputs)

    monkeypatch.setattr(trainer, "_compute_loss", watched)
    trainer.train()
    assert len(losses) == 6
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
    assert any(abs(loss) > 1e-4 for loss in losses)
    logs = [entry for entry in trainer.state.log_history if "troll/ratio" in entry]
    assert logs[0]["troll/kl_before"] < 1e-6  # sampled by this very network
    assert logs[0]["troll/projected"] == 0
    assert logs[-1]["troll/kl_before"] > 0.001
    assert logs[-1]["troll/projected"] > 0
    assert all(entry["troll/kl_after"] <= 0.001 + 1e-6 for entry in logs)


def test_what_is_stored_is_the_policy_that_sampled(settings):
    trainer = build(settings)
    batch = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(batch)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    length = output["completion_ids"].shape[1]
    with torch.no_grad():
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1] / 0.9
    stored = SparseDist(*(output[f"troll_{name}"] for name in ("ids", "logp", "tail", "mass")), logits.shape[-1])
    assert torch.equal(stored.ids[..., 0], output["completion_ids"])
    torch.testing.assert_close(stored.dense(), logits.log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_an_engine_of_its_own_weighs_the_gain_and_not_the_regression(settings):
    trainer = build(settings)
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    trainer.current_gradient_accumulation_steps = 1  # the training loop sets it
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(10)  # away from the policy that sampled
    for shape in ((len(output["advantages"]), 1), output["completion_ids"].shape):
        none, once, twice = (
            trainer._compute_loss(trainer.model, {**output, "importance_sampling_ratio": torch.full(shape, weight)})
            for weight in (0.0, 1.0, 2.0)
        )
        assert none > 1e-3
        torch.testing.assert_close(once, trainer._compute_loss(trainer.model, output))
        torch.testing.assert_close(twice - once, once - none, rtol=1e-4, atol=1e-6)


def test_the_reward_rises(settings):
    trainer = build(settings, max_steps=60, per_device_train_batch_size=64, logging_steps=10)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards[-1] > rewards[0] + 0.1


def test_settings_that_would_do_nothing_are_refused(settings):
    from tether.methods.troll.trl import TROLLTrainer

    for name, value, wanted in (
        ("loss_type", "dapo", "'grpo'"),
        ("beta", 0.1, "0.0"),
        ("importance_sampling_level", "sequence", "'token'"),
        ("top_entropy_quantile", 0.5, "1.0"),
        ("entropy_coef", 0.1, "0.0"),
    ):
        with pytest.raises(InputError, match=rf"{name}: TROLL's loss needs {wanted}, got {value!r}"):
            build(settings, **{name: value})
    with pytest.raises(InputError, match="eps: expected a finite number above 0"):
        build(settings, troll_eps=0.0)
    with pytest.raises(InputError, match="args: expected a TROLLConfig, got GRPOConfig"):
        TROLLTrainer(verifiable.model(seed=0), verifiable.right_places, trl.GRPOConfig(**settings))
    with pytest.raises(InputError, match="args: expected a TROLLConfig, got NoneType"):
        TROLLTrainer(verifiable.model(seed=0), verifiable.right_places)


def test_without_trl_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "tether.methods.troll.trl", raising=False)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[llm\]"):
        importlib.import_module("tether.methods.troll.trl")


def test_the_task_can_be_verified():
    rewards = verifiable.right_places(["4 0 2 =", "4 0 2 =", "1 1 0 ="], ["0 2 4", "4 2 0", ""])
    assert rewards == pytest.approx([1.0, 1 / 3, 0.0])
    assert len(verifiable.questions()) == verifiable.DIGITS**verifiable.LENGTH
    words = verifiable.tokenizer()("4 0 2 =")["input_ids"]
    assert words == [6, 2, 4, 1]
