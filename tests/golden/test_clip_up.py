"""Routing, slots, gates, outputs, losses and the router's gradient of sparse mixtures, against an own transcription."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.models.towers.blocks.moe import MoeConfig, MoEMlp, expert_losses, route

V = load("clip-up")
CLOSE = float(re.match(r"[\d.e-]+", V.meta["tolerance"]).group())
CASES = list(enumerate(V.meta["cases"]))


def array(case: int, name: str) -> Tensor:
    V.need(f"c{case}_{name}")
    return torch.tensor(V[f"c{case}_{name}"])


def close(found: Tensor, wanted: Tensor | float, said: str) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(wanted), rtol=CLOSE, atol=CLOSE, err_msg=said)


def settings(about: dict, **more: str) -> MoeConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one choice with shares is warned of
        return MoeConfig(
            experts=about["experts"], top_k=about["top_k"], capacity_factor=about["capacity_factor"], **more
        )


def made(case: int, config: MoeConfig, *, upcycled: bool = False) -> MoEMlp:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moe = MoEMlp(V.meta["cases"][case]["dim"], V.meta["cases"][case]["hidden"], config=config).double()
    weights = {name: array(case, name) for name in ("w1", "b1", "w2", "b2")}
    if upcycled:
        first = {name: value[0] for name, value in weights.items()}
        moe.copy_dense_(
            {"up.weight": first["w1"].T, "up.bias": first["b1"], "down.weight": first["w2"].T, "down.bias": first["b2"]}
        )
    with torch.no_grad():
        moe.router.copy_(array(case, "router"))
        if not upcycled:
            for parameter, name in ((moe.up, "w1"), (moe.down, "w2")):
                parameter.copy_(weights[name].transpose(1, 2))
            for parameter, name in ((moe.up_bias, "b1"), (moe.down_bias, "b2")):
                parameter.copy_(weights[name])
    return moe


@pytest.mark.parametrize(("case", "about"), CASES)
def test_choices_gates_and_slots(case: int, about: dict) -> None:
    x, config = array(case, "x"), settings(about)
    groups, tokens = about["groups"], about["tokens"]
    found = route(
        x.flatten(0, 1) @ array(case, "router"),
        group=torch.arange(groups).repeat_interleave(tokens),
        groups=groups,
        config=config,
        capacity_factor=config.capacity_factor,
    )
    shape = (groups, tokens, about["top_k"])
    assert torch.equal(found.chosen.view(shape), array(case, "idx").long())
    assert torch.equal(found.kept.view(shape), array(case, "keep"))
    close(found.gates.view(shape), array(case, "gate"), "gate")
    most = F.one_hot(found.chosen, about["experts"]).mul(found.kept[..., None]).view(groups, -1, about["experts"])
    assert int(most.sum(1).max()) <= about["capacity"]
    assert int((~found.kept.any(dim=1)).sum()) == about["fully_dropped_tokens"]


@pytest.mark.parametrize(("case", "about"), CASES)
def test_outputs_and_losses(case: int, about: dict) -> None:
    x = array(case, "x")
    moe = made(case, settings(about))
    rows, tally = moe(x)
    close(rows, array(case, "y"), "y")
    losses = expert_losses(tally)
    for found, wanted in (("load_balance", "load_balance_topk"), ("router_z", "router_z"), ("dropped", "dropped")):
        close(losses[found], about[wanted], wanted)
    (losses["load_balance"] + losses["router_z"]).backward()
    close(moe.router.grad, array(case, "grad_router_lb_plus_z"), "grad_router_lb_plus_z")
    first = made(case, settings(about, balanced="first"))(x).tally
    close(expert_losses(first)["load_balance"], about["load_balance_top1"], "load_balance_top1")


@pytest.mark.parametrize(("case", "about"), CASES)
def test_copies_of_a_dense_net(case: int, about: dict) -> None:
    x = array(case, "x")
    close(made(case, settings(about), upcycled=True)(x).rows, array(case, "y_upcycled"), "y_upcycled")
    dense = F.gelu(x @ array(case, "w1")[0] + array(case, "b1")[0]) @ array(case, "w2")[0] + array(case, "b2")[0]
    close(dense, array(case, "y_dense"), "y_dense")
    roomy = settings({**about, "capacity_factor": float(about["experts"])})
    np.testing.assert_allclose(made(case, roomy, upcycled=True)(x).rows.detach(), array(case, "y_dense"), atol=1e-6)


def test_every_array_is_looked_at() -> None:
    names = ("x", "router", "w1", "b1", "w2", "b2", "idx", "gate", "keep", "y", "y_dense", "y_upcycled")
    names += ("grad_router_lb_plus_z",)
    assert set(V.arrays) <= {f"c{case}_{name}" for case, _ in CASES for name in names}
