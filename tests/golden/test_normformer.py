"""fairseq's decoder layer with NormFormer's switches, and the paper's own place of the head factors."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.options import BlockConfig, Place
from tether.models.towers.blocks.presets import block_preset

V = load("normformer")
HYPER = V.meta["hyper"]
CASES = sorted(name.removeprefix("out.") for name in V.arrays if name.startswith("out."))
PAPER = sorted(name.removeprefix("paper_headscale.") for name in V.arrays if name.startswith("paper_headscale."))
PIECES = {
    "attn_ln": {"scale_attn"},
    "fc_ln": {"scale_fc"},
    "heads": {"scale_heads"},
    "resid": {"scale_resids"},
    "normformer": {"scale_attn", "scale_fc", "scale_heads"},
    "pre": set(),
    "post": set(),
    "only": set(),
}
"""Words of a variant's name, and fairseq's switches that they stand for."""


def options(variant: str) -> BlockConfig:
    """What fairseq's switches are here; it puts the head factors behind the output projection."""
    words = re.findall("|".join(PIECES), variant)
    assert "_".join(words) == variant, f"{variant}: expected words among {', '.join(PIECES)}"
    switches = set().union(*(PIECES[word] for word in words))
    place: Place = "post" if "post" in words else "pre"
    chosen = BlockConfig(
        attn_norm=(place, "out") if "scale_attn" in switches else (place,),
        ffn_norm=(place,),
        ffn_mid_norm="scale_fc" in switches,
        head_scale="after_proj" if "scale_heads" in switches else "none",
        residual_scale="scale_resids" in switches,
    )
    activation = HYPER["activation"].split()[-1].lower()
    return dataclasses.replace(chosen, activation=activation, norm_eps=HYPER["ln_eps"])


def filled(config: BlockConfig, dtype: torch.dtype) -> TransformerBlock:
    """Our block with the file's weights, those of switched-off pieces left out."""
    block = TransformerBlock(HYPER["dim"], heads=HYPER["heads"], hidden=HYPER["ffn"], config=config).to(dtype)

    def part(name: str) -> Tensor:
        return torch.from_numpy(V[f"w.{name}"]).to(dtype)

    state = {"head_scale": part("c_attn"), "residual_scale": part("w_resid")}
    place = "post" if "post" in config.attn_norm else "pre"
    theirs = {
        "proj": "self_attn.out_proj", "up": "fc1", "down": "fc2", f"attn_{place}": "self_attn_layer_norm",
        f"ffn_{place}": "final_layer_norm", "attn_out": "attn_ln", "ffn_mid": "ffn_layernorm",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        state[f"qkv.{kind}"] = torch.cat([part(f"self_attn.{letter}_proj.{kind}") for letter in "qkv"])
        state |= {f"{ours}.{kind}": part(f"{name}.{kind}") for ours, name in theirs.items()}
    wanted = block.state_dict()
    block.load_state_dict({name: value for name, value in state.items() if name in wanted})
    return block.eval()


def close(got: Tensor, name: str) -> None:
    np.testing.assert_allclose(got.detach().transpose(0, 1).numpy(), V[name], **V.meta["tolerance"], err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_official(case: str) -> None:
    variant, direction = case.rsplit(".", 1)
    x = torch.from_numpy(V["x_TBC"]).transpose(0, 1).requires_grad_()
    probe = torch.from_numpy(V["probe_TBC"]).transpose(0, 1)
    out = filled(options(variant), x.dtype)(x, causal=direction == "causal")
    close(out, f"out.{case}")
    if f"gradx.{case}" in V:
        (grad,) = torch.autograd.grad((out * probe).sum(), x)
        close(grad, f"gradx.{case}")


@pytest.mark.parametrize("direction", PAPER)
def test_head_factors_before_the_projection(direction: str) -> None:
    config = dataclasses.replace(options("normformer"), head_scale="heads")
    x = torch.from_numpy(V["x_TBC"]).double().transpose(0, 1)
    close(filled(config, x.dtype)(x, causal=direction == "causal"), f"paper_headscale.{direction}")


def test_the_preset_is_these_switches() -> None:
    preset = block_preset("normformer", layer=0, layers=1)
    official = options("normformer")
    common = {"head_scale": "after_proj", "activation": official.activation, "norm_eps": official.norm_eps}
    assert preset.head_scale == "heads"  # the paper's place
    assert dataclasses.replace(preset, **common) == official


def test_the_file_has_cases() -> None:
    assert CASES
    assert any(f"gradx.{case}" in V for case in CASES)
