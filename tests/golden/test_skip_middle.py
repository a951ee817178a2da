"""Skip-the-Middle: the whole released model, its gates, one block, and the three controllers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor, nn

from tether.methods.skip_middle.gate_controller import GateController
from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.layers import RmsNorm
from tether.models.towers.blocks.mirror_gate import MirrorGate

V = load("skip-middle")
HYPER = V.meta["hyper"]
CLOSE = {"atol": V.meta["tolerance"]["atol"], "rtol": V.meta["tolerance"]["rtol"]}
EPS = float(re.search(r"eps ([\d.e-]+)", HYPER["norm"])[1])  # pyrefly: ignore - the file says so
THETA = float(re.search(r"theta ([\d.e+]+)", HYPER["rope"])[1])  # pyrefly: ignore - the file says so
RULES = {"prop": "proportional", "adapt": "adaptive", "pd": "proportional_derivative"}


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def close(got: Tensor, name: str) -> None:
    np.testing.assert_allclose(got.detach().numpy(), V[name], **CLOSE, err_msg=name)


def norm(name: str) -> RmsNorm:
    made = RmsNorm(HYPER["dim"], eps=EPS)
    made.weight = nn.Parameter(array(f"w.{name}.weight"))
    return made


def block(layer: int, *, gated_key: str) -> TransformerBlock:
    config = BlockConfig(
        activation="swiglu",
        norm="rms",
        norm_eps=EPS,
        attn_norm=("pre", "out"),
        ffn_norm=("pre", "out"),
        rope="interleaved",
        rope_theta=THETA,
        kv_heads=HYPER["kv_heads"],
        bias=False,
        gated_key=gated_key,  # pyrefly: ignore - one of its words
    )
    made = TransformerBlock(HYPER["dim"], heads=HYPER["heads"], hidden=HYPER["ffn_hidden"], config=config)

    def weight(name: str) -> Tensor:
        return array(f"w.layers.{layer}.{name}.weight")

    made.load_state_dict(
        {
            "qkv.weight": torch.cat([weight(f"attention.{name}") for name in ("wq", "wk", "wv")]),
            "proj.weight": weight("attention.wo"),
            "up.weight": torch.cat([weight("feed_forward.w3"), weight("feed_forward.w1")]),
            "down.weight": weight("feed_forward.w2"),
            "attn_pre.weight": weight("pre_attention_norm"),
            "attn_out.weight": weight("post_attention_norm"),
            "ffn_pre.weight": weight("pre_feed_forward_norm"),
            "ffn_out.weight": weight("post_feed_forward_norm"),
        }
    )
    return made


WHOLE = [("seen", ""), ("hidden", "keygate.")]
BLOCK = [("seen", "block.out_official"), ("hidden", "block.out_keygate")]
"""What a token that skips is for the others, and the figures of that kind."""


@pytest.mark.parametrize(("gated_key", "head"), [case for case in WHOLE if f"{case[1]}logits" in V])
def test_whole_model(gated_key: str, head: str) -> None:
    depth = HYPER["layers"]
    gate = MirrorGate(HYPER["dim"], depth=depth)
    half = range(depth // 2)
    gate.load_state_dict(
        {
            "weight": torch.cat([array(f"w.masks.{layer}.linear.weight") for layer in half]),
            "bias": torch.cat([array(f"w.masks.{layer}.linear.bias") for layer in half]),
        }
    )
    x = norm("input_norm")(F.embedding(array("ids"), array("w.tok_embeddings.weight")))
    gates, states = [], []
    for layer in range(depth):
        gates.append(gate.step(layer, x))
        x = block(layer, gated_key=gated_key)(x, causal=True, gate=gates[-1])
        states.append(x)
    compared = {
        "logits": F.linear(norm("output_norm")(x), array("w.output.weight")),
        "gates": torch.stack(gates),
        "hidden": torch.stack(states),
    }
    if "masks" in V and not head:
        np.testing.assert_allclose(compared["gates"][: depth // 2].detach(), 1 - V["masks"].clip(0, 1), **CLOSE)
    for name in [name for name in compared if f"{head}{name}" in V]:
        close(compared[name], f"{head}{name}")


@pytest.mark.parametrize(("gated_key", "name"), [case for case in BLOCK if case[1] in V])
def test_one_block(gated_key: str, name: str) -> None:
    made = block(0, gated_key=gated_key)
    close(made(array("block.x"), causal=True, gate=array("block.gate")), name)


def controller(case: str) -> GateController:
    """Gains and dead zones stand in a sentence; the derivative's is that of the proportional rule."""
    said = V.meta["controllers"]
    told = {
        "prop": r"prop: coef \+= ([\d.e-]+)\*delta where \|delta\|>([\d.e-]+)",
        "adapt": r"adapt: coef \+= ([\d.e-]+)\*sign\(delta\) where \|delta\|>([\d.e-]+)",
    }
    found = re.search(told["adapt" if case == "adapt" else "prop"], said)
    assert found is not None, said
    targets = V[f"{case}.mean_targets"]
    return GateController(
        len(targets),
        start=float(targets[0]),
        end=float(targets[len(targets) // 2 - 1]),
        rule=RULES[case],  # pyrefly: ignore - one of its words
        gain=float(found[1]),
        dead_zone=float(found[2]),
    )


@pytest.mark.parametrize("case", [case for case in RULES if f"{case}.mean_coefs" in V])
def test_controller(case: str) -> None:
    ours = controller(case)
    close(ours.mean_target, f"{case}.mean_targets")
    close(ours.variance_target, f"{case}.var_targets")
    gates = array(f"{case}.gates_for_loss").flatten(1)

    def released() -> Tensor:
        """The released loss was given gates with a last axis of one, for which it pairs every layer's weight with every
        layer's statistic; its training loop squeezes that axis, and each layer then meets its own, as in ``penalty``.
        """
        mean, variance = gates.mean(1).mean(), gates.var(1).mean()
        return ours.penalty_of(mean.expand(ours.depth), variance.expand(ours.depth))

    close(released(), f"{case}.loss0")
    means, variances = [], []
    for mean, variance in zip(array(f"{case}.gate_mean_seq"), array(f"{case}.gate_var_seq"), strict=True):
        ours.update(mean, variance)
        means.append(ours.mean_weight)
        variances.append(ours.variance_weight)
    close(torch.stack(means), f"{case}.mean_coefs")
    close(torch.stack(variances), f"{case}.var_coefs")
    close(released(), f"{case}.loss")
