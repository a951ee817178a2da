"""The ranking-aware adapter's attention, read-outs and loss against the figures of the released code."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor, nn

from tether.losses import ranking_loss
from tether.models.heads.rank_attention import RankAwareAttention
from tether.models.heads.ranking_adapter import PairHead, ScoreHead

V = load("ranking-adapter")
RTOL = float(re.findall(r"[\d.]+e-?\d+", str(V.meta["tolerance"]))[0])
HYPER = V.meta["hyper"]


def given(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def close(ours: Tensor, name: str) -> None:
    wanted = V[name]
    atol = RTOL * max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(ours.detach().numpy().reshape(wanted.shape), wanted, rtol=RTOL, atol=atol)


def filled(part: nn.Module, start: str) -> nn.Module:
    """With the released weights: a stack's layers have the same numbers, its last one is called ``output_head``."""
    last = str(len(part) - 1) if isinstance(part, nn.Sequential) else ""
    names = {name: name.removeprefix(f"{start}/") for name in V.arrays if name.startswith(f"{start}/")}
    ours = {
        short.removeprefix("pre_linear_block.").replace("output_head", last): given(name)
        for name, short in names.items()
    }
    part.load_state_dict(ours)
    return part


@pytest.fixture
def parts() -> tuple[nn.Module, ...]:
    dim = V["tokens"].shape[-1]
    found = RankAwareAttention(dim, heads=HYPER["heads"]), PairHead(dim), nn.LayerNorm(dim), ScoreHead(dim)
    return tuple(
        filled(part.double(), start) for part, start in zip(found, ("attn", "pair", "reg_ln", "reg"), strict=True)
    )


def test_attention_and_read_outs(parts: tuple[nn.Module, ...]) -> None:
    attention, pair, norm, score = parts
    values = attention(given("reg_tokens"), given("tokens"))
    close(values, "attn_values")
    close(attention.weights(given("reg_tokens"), given("tokens")), "attention")
    close(pair(values.sum(dim=1)), "pair_logits")
    close(score(norm(given("tokens")).sum(dim=1)), "scores")


def test_loss_and_gradient(parts: tuple[nn.Module, ...]) -> None:
    attention, pair, norm, score = parts
    logits = pair(attention(given("reg_tokens"), given("tokens")).sum(dim=1))
    scores, targets = score(norm(given("tokens")).sum(dim=1)), given("targets")
    weights = {name: float(HYPER[name]) for name in ("rank_weight", "reg_weight", "bce_weight")}
    loss = ranking_loss(scores, logits, targets, components=HYPER["loss_components"], **weights)
    close(loss.total, "loss_total")
    loss.total.backward()
    close(attention.q_proj.weight.grad, "grad_q_proj")
    every = ranking_loss(scores, logits, targets, components=("rank", "regression", "bce"), **weights).terms
    close(every["rank"], "loss_rank")
    close(every["regression"], "loss_regression_weighted")
    close(every["bce"], "loss_bce")


def test_every_figure_is_used() -> None:
    V.need("attn_values", "attention", "pair_logits", "scores", "loss_total", "grad_q_proj", "loss_bce")
