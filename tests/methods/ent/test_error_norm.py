"""Error norm truncation beside plain arithmetic, at its edges, and inside a transformers Trainer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.ent import CausalENT, ENTLoss, error_norm

pytestmark = pytest.mark.slow

PAD = -100


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    logits = (3 * normal(4, 7, 9)).to(dtype).requires_grad_()
    targets = torch.randint(0, 9, (4, 7), generator=torch.Generator().manual_seed(1))
    targets[1, 3:] = PAD
    return logits, targets


def plain_norm(logits: Tensor, targets: Tensor) -> Tensor:
    right = F.one_hot(targets.clamp(min=0), logits.shape[-1])
    return (logits.softmax(-1) - right).norm(dim=-1) * (targets != PAD)


def test_is_the_distance_to_the_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = batch()
    torch.testing.assert_close(error_norm(logits, targets), plain_norm(logits, targets).detach())
    monkeypatch.setattr("tether.methods.ent.loss.PIECE", 40)
    torch.testing.assert_close(error_norm(logits, targets), plain_norm(logits, targets).detach())
    torch.testing.assert_close(error_norm(logits[0], targets[0]), plain_norm(logits, targets)[0].detach())


def test_ends_of_the_range() -> None:
    sure = torch.tensor([[40.0, 0, 0, 0], [0, 40, 0, 0], [0, 0, 0, 0]])
    norms = error_norm(sure, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(norms, torch.tensor([0.0, math.sqrt(2), math.sqrt(3) / 2]))
    nearly = torch.tensor([[12.0, 0, 0]])  # float32 keeps the digits of a norm of 1e-5
    wide = error_norm(nearly.double(), torch.tensor([0]))
    torch.testing.assert_close(error_norm(nearly, torch.tensor([0])).double(), wide, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits, targets = batch(dtype)
    norms = error_norm(logits, targets)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, error_norm(logits.detach().float(), targets), rtol=1e-6, atol=1e-6)
    got = ENTLoss(threshold=1.0)(logits, targets, step=0)
    assert got.loss.dtype == torch.float32
    got.loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    assert (logits.grad.abs().sum(dim=-1) == 0).equal(got.dropped | (targets == PAD))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dropped_tokens_count_as_zero(smoothing: float) -> None:
    logits, targets = batch()
    norms = plain_norm(logits, targets)
    keep = (norms <= 1.1) & (targets != PAD)
    log_p = logits.log_softmax(-1)
    spread = smoothing / 8
    nll = -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    total = (((1 - smoothing - spread) * nll - spread * log_p.sum(-1)) * keep).sum()
    real = int((targets != PAD).sum())
    for normalize, divisor in (("sum", 1), ("tokens", real), ("kept", int(keep.sum()))):
        loss = ENTLoss(threshold=1.1, label_smoothing=smoothing, normalize=normalize)  # pyrefly: ignore
        got = loss(logits, targets, step=0)
        torch.testing.assert_close(got.loss, total / divisor)
        torch.testing.assert_close(
            torch.autograd.grad(got.loss, logits)[0], torch.autograd.grad(total / divisor, logits, retain_graph=True)[0]
        )
        assert got.dropped.equal((norms > 1.1) & (targets != PAD))
        torch.testing.assert_close(got.share.item(), got.dropped.sum().item() / real)
        torch.testing.assert_close(got.nll, (nll * keep).sum().detach())
        assert not got.nll.requires_grad
        assert int(got.tokens) == real
        assert 0 < got.share < 1


def test_nothing_is_dropped_before_its_step_or_in_evaluation() -> None:
    logits, targets = batch()
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss = ENTLoss(threshold=1.0, start_step=5)
    for step in (0, 4, None):
        got = loss(logits, targets, step=step)
        assert not got.dropped.any()
        torch.testing.assert_close(got.loss, plain)
    assert loss(logits, targets, step=5).dropped.any()


def test_fractions() -> None:
    logits, targets = batch()
    for fraction in (0.0, 0.01, 0.25, 0.9):
        dropped = ENTLoss(fraction=fraction)(logits, targets, step=0).dropped
        assert int(dropped.sum()) == min(int(fraction * 28), 24)
        assert not dropped[targets == PAD].any()
    same = torch.zeros(3, 4, dtype=torch.float64)  # ties with the cut are kept
    assert not ENTLoss(fraction=0.5)(same, torch.zeros(3, dtype=torch.int64), step=0).dropped.any()


def test_a_batch_of_padding_alone_is_zero() -> None:
    logits = normal(2, 3, 5).requires_grad_()
    for normalize in ("tokens", "kept", "sum"):
        loss = ENTLoss(fraction=0.5, label_smoothing=0.1, normalize=normalize)  # pyrefly: ignore
        got = loss(logits, torch.full((2, 3), PAD), step=0)
        (grad,) = torch.autograd.grad(got.loss, logits)
        assert got.loss == 0
        assert got.share == 0
        assert not grad.any()


def test_nan_is_handed_on() -> None:
    logits, targets = batch()
    spoilt = logits.detach().clone()
    spoilt[0, 0, 0] = torch.nan
    for limit in ({"threshold": 1.2}, {"fraction": 0.2}):
        got = ENTLoss(**limit)(spoilt, targets, step=0)
        assert got.loss.isnan() or got.dropped[0, 0]


@pytest.mark.parametrize("settings", [{}, {"threshold": 1.0, "fraction": 0.1}])
def test_exactly_one_limit(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="exactly one of threshold and fraction"):
        ENTLoss(**settings)


def test_the_whole_range_of_thresholds_is_allowed() -> None:
    logits, targets = batch(torch.float32)
    assert not ENTLoss(threshold=math.sqrt(2))(50 * logits, targets, step=0).dropped.any()


def test_batches_that_do_not_fit() -> None:
    logits, targets = batch()
    for bad_logits, bad_targets, message in (
        (logits[:2], targets, r"got \(2, 7, 9\) and \(4, 7\)"),
        (logits[..., :1], targets.clamp(max=0), "at least two classes"),
        (logits, targets.clamp(min=0) + 5, r"expected classes 0..8 or -100, got"),
        (logits, targets.int(), "int64"),
        (logits.detach().long(), targets, "float logits"),
    ):
        with pytest.raises(InputError, match=message):
            ENTLoss(fraction=0.1)(bad_logits, bad_targets, step=0)
        with pytest.raises(InputError, match=message):
            error_norm(bad_logits, bad_targets)


def causal_pieces() -> tuple[Tensor, Tensor, Tensor]:
    logits = (2 * normal(4, 6, 8)).requires_grad_()
    labels = torch.randint(0, 8, (4, 6), generator=torch.Generator().manual_seed(3))
    labels[0, 4:] = PAD
    return logits, labels, (labels[:, 1:] != PAD).sum()


def test_causal_slices_add_up_to_the_whole() -> None:
    logits, labels, items = causal_pieces()
    whole = CausalENT(ENTLoss(threshold=1.0), step=lambda: 9)
    got = sum(whole({"logits": logits[rows]}, labels[rows], items) for rows in (slice(0, 1), slice(1, 4)))
    wanted = ENTLoss(threshold=1.0)(logits[:, :-1], labels[:, 1:], step=9)
    assert wanted.dropped.any()
    torch.testing.assert_close(got, wanted.loss)
    torch.testing.assert_close(whole({"logits": logits}, labels), wanted.loss)
    total = CausalENT(ENTLoss(threshold=1.0, normalize="sum"), step=lambda: 9)({"logits": logits}, labels, items)
    torch.testing.assert_close(total, wanted.loss * items)


def test_causal_kept_weighs_slices_by_their_tokens() -> None:
    logits, labels, items = causal_pieces()
    loss = ENTLoss(threshold=1.0, normalize="kept")
    got = CausalENT(loss, step=lambda: 0)({"logits": logits[:1]}, labels[:1], items)
    wanted = loss(logits[:1, :-1], labels[:1, 1:], step=0)
    torch.testing.assert_close(got, wanted.loss * 3 / items)


def test_causal_without_gradient_is_evaluation() -> None:
    logits, labels, _ = causal_pieces()
    got = CausalENT(ENTLoss(threshold=0.5), step=lambda: 0)({"logits": logits.detach()}, labels)
    torch.testing.assert_close(got, F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).detach())
    with pytest.raises(InputError, match="labels"):
        CausalENT(ENTLoss(threshold=0.5), step=lambda: 0)({"logits": logits}, labels[:, 1:])


def trainer_run(tmp_path: Any, *, threshold: float | None, start_step: int = 0) -> tuple[list[float], float]:
    """Losses of every step and of the evaluation; None trains with the model's own loss."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(1, 13, (16, 9), generator=draw).tolist()]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, per_device_eval_batch_size=16,
        gradient_accumulation_steps=2, learning_rate=0.05, logging_steps=1, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, seed=0, lr_scheduler_type="constant", dataloader_pin_memory=False,
    )  # fmt: skip
    data = Dataset.from_list(rows)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        compute_loss_func=None
        if threshold is None
        else CausalENT(ENTLoss(threshold=threshold, start_step=start_step), step=lambda: trainer.state.global_step),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer.evaluate()["eval_loss"]


@pytest.mark.filterwarnings("ignore")  # other libraries' warnings while a Trainer runs
def test_in_a_trainer(tmp_path: Any) -> None:
    plain, plain_evaluation = trainer_run(tmp_path, threshold=None)
    never, never_evaluation = trainer_run(tmp_path, threshold=math.sqrt(2))
    assert never == pytest.approx(plain, rel=1e-4)
    assert never_evaluation == pytest.approx(plain_evaluation, rel=1e-4)
    late, _ = trainer_run(tmp_path, threshold=0.96, start_step=2)
    assert late[:2] == pytest.approx(plain[:2], rel=1e-4)
    assert late[2] < 0.9 * plain[2]  # dropped tokens count as zero
