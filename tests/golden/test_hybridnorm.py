"""OLMo's sequential block with HybridNorm's switches, values and gradients."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.layers import RmsNorm
from tether.models.towers.blocks.presets import block_preset

V = load("hybridnorm")
HYPER = V.meta["hyper"]
CASES = sorted(name.removeprefix("out.") for name in V.arrays if name.startswith("out."))
LETTERS = {"q": "query", "k": "key", "v": "value", "c": "context"}


def switches(case: str) -> dict[str, Any]:
    """The official configuration of the first block."""
    chosen = ast.literal_eval(V.meta["variants"][case])
    special = ast.literal_eval(chosen.pop("norm_pos_special_config", "{}").strip("_"))
    short = {"attn_residual": "attn_residual_after_norm", "ffn_residual": "ffn_residual_after_norm"}
    return chosen | {short.get(name, name): value for name, value in special.get(0, {}).items()}


def number(after: str, text: str) -> float:
    found = re.search(rf"{after} ([\d.e+-]+)", text)
    assert found, text
    return float(found[1].rstrip(".,"))


def options(switch: dict[str, Any]) -> tuple[BlockConfig, bool]:
    """Our options, and whether the attention starts from a norm that its skip is taken from.

    The official code normalises at the start of a sublayer. If the skip is taken from there, that norm is the end of
    what came before: for the feed-forward net a norm after the attention's sum, for attention one before the block.
    """
    attn: list[str] = []
    starts = switch["attn_norm"] and switch.get("attn_residual_after_norm", False)
    shifted = switch["ffn_norm"] and switch.get("ffn_residual_after_norm", False)
    if switch["attn_norm"] and not starts:
        attn.append("pre")
    if shifted:
        attn.append("post")
    letters = "".join(letter for letter, word in LETTERS.items() if switch.get(f"use_{word}_norm"))
    config = BlockConfig(
        activation=re.match(r"\w+", HYPER["activation"])[0].lower(),
        norm="rms",
        norm_eps=number("eps", HYPER["norm"]),
        attn_norm=tuple(attn),
        ffn_norm=("pre",) if switch["ffn_norm"] and not shifted else (),
        qkv_norm=letters,
        rope="half",
        rope_theta=number("theta", HYPER["rope"]),
        kv_heads=HYPER["kv_heads"],
        bias=False,
    )
    return config, starts


def part(name: str) -> Tensor:
    return torch.from_numpy(V[f"w.{name}.weight"])


@pytest.mark.parametrize("case", CASES)
def test_official(case: str) -> None:
    config, starts = options(switches(case))
    block = TransformerBlock(HYPER["dim"], heads=HYPER["heads"], hidden=HYPER["mlp_hidden_size"] // 2, config=config)
    theirs = {"qkv": "att_proj", "proj": "attn_out", "up": "ff_proj", "down": "ff_out", "attn_pre": "attn_norm"}
    theirs |= {"ffn_pre": "ff_norm", "attn_post": "ff_norm"} | {f"{letter}_norm": f"{letter}_norm" for letter in "qkvc"}
    wanted = block.state_dict()
    block.load_state_dict({f"{ours}.weight": part(name) for ours, name in theirs.items() if f"{ours}.weight" in wanted})
    x = torch.from_numpy(V["x_BTC"]).requires_grad_()
    start = x
    if starts:
        norm = RmsNorm(HYPER["dim"], eps=config.norm_eps)
        norm.load_state_dict({"weight": part("attn_norm")})
        start = norm(x)
    out = block(start, causal=HYPER["causal"])
    close = V.meta["tolerance"]
    np.testing.assert_allclose(out.detach().numpy(), V[f"out.{case}"], **close)
    if f"gradx.{case}" in V:
        (grad,) = torch.autograd.grad((out * torch.from_numpy(V["probe_BTC"])).sum(), x)
        np.testing.assert_allclose(grad.numpy(), V[f"gradx.{case}"], **close)


PRESETS = {
    "hybridnorm": ("hybridnorm", 1), "hybridnorm_star_block0": ("hybridnorm*", 0), "prenorm": ("prenorm", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(PRESETS.keys() & set(CASES)))
def test_the_presets_are_these_settings(case: str) -> None:
    name, layer = PRESETS[case]
    official, _ = options(switches(case))
    same = {"norm", "norm_eps", "activation", "rope", "rope_theta", "kv_heads", "bias"}
    common = {option: getattr(official, option) for option in same}
    assert dataclasses.replace(block_preset(name, layer=layer, layers=2), **common) == official


def test_the_file_has_cases() -> None:
    assert CASES
    assert any(f"gradx.{case}" in V for case in CASES)
