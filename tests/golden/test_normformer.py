"""fairseq's decoder layer with NormFormer's switches, and the paper's own place of the head factors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.models.blocks.block import BlockConfig, TransformerBlock
from tether.models.blocks.presets import block_preset

V = load("normformer")
HYPER = V.meta["hyper"]
CASES = sorted(name.removeprefix("out.") for name in V.arrays if name.startswith("out."))
PAPER = sorted(name.removeprefix("paper_headscale.") for name in V.arrays if name.startswith("paper_headscale."))
ADDITIONS = {
    "attn_ln": {"attn_norm": ("pre", "out")},
    "fc_ln": {"ffn_mid_norm": True},
    "heads": {"head_scale": "after_proj"},
    "resid": {"residual_scale": True},
}


def options(variant: str) -> BlockConfig:
    """What fairseq's switches are here; it puts the head factors behind the output projection."""
    if variant in ("pre", "post"):
        chosen = block_preset(f"{variant}norm", layer=0, layers=1)
    elif variant.startswith("normformer"):
        chosen = dataclasses.replace(block_preset("normformer", layer=0, layers=1), head_scale="after_proj")
        if variant != "normformer":
            chosen = dataclasses.replace(chosen, **ADDITIONS[variant.removeprefix("normformer_")])
    else:
        chosen = dataclasses.replace(BlockConfig(), **ADDITIONS[variant.removeprefix("only_")])
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


def test_the_file_has_cases() -> None:
    assert CASES
    assert any(f"gradx.{case}" in V for case in CASES)
