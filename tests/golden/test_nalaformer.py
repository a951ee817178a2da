"""NaLaFormer's released block, linear and softmax, and the kernel alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor, nn

from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.grid import Grid
from tether.models.towers.blocks.linear_attention import KERNELS, linear_attention
from tether.models.towers.blocks.rope import ROPE

V = load("nalaformer")
HYPER = V.meta["hyper"]
CLOSE = {"atol": V.meta["tolerance"]["atol"], "rtol": V.meta["tolerance"]["rtol"]}
GRID = Grid(HYPER["H"], HYPER["W"])
FLAGS = {"l": "nala", "v": "softmax"}
"""The released flags and what they are called here."""


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def tokens(name: str) -> Tensor:
    """(b, c, h, w) to (b, h w, c)."""
    return array(name).flatten(2).transpose(1, 2)


def weights(flag: str) -> dict[str, Tensor]:
    """A block's weights by their released names."""
    head = f"{flag}.w."
    return {name.removeprefix(head): array(name) for name in V.arrays if name.startswith(head)}


def renamed(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released names to ours: q, k, v stay one layer, the gate becomes its own."""
    layers = {"norm1.norm": "attn_pre", "norm2.norm": "ffn_pre", "attn.out_proj": "proj", "attn.ln": "ctx_norm"}
    layers |= {"attn.lepe": "lepe", "cpe1": "attn_conv", "cpe2": "ffn_conv"}
    layers |= {"ffn.fc1": "up", "ffn.dwconv": "mid_conv", "ffn.fc2": "down"}
    ours = {}
    for name, value in theirs.items():
        layer, _, kind = name.rpartition(".")
        if name in ("gamma_1", "gamma_2"):
            ours["attn_scale" if name == "gamma_1" else "ffn_scale"] = value.flatten()
        elif layer == "attn.qkvg":
            quarter = len(value) // 4
            ours[f"qkv.{kind}"], ours[f"out_gate.{kind}"] = value[: 3 * quarter], value[3 * quarter :]
        else:
            ours[f"{layers[layer]}.{kind}"] = value
    return ours


def block(flag: str) -> TransformerBlock:
    theirs = weights(flag)

    def side(name: str) -> int:
        return theirs[f"{name}.weight"].shape[-1] if f"{name}.weight" in theirs else 0

    config = BlockConfig(
        attention=FLAGS[flag],
        rope="2d",
        norm_eps=HYPER["block_norm_eps"],
        out_gate=True,
        ctx_norm=True,
        ctx_norm_eps=HYPER["attn_ln_eps"],
        lepe=side("attn.lepe"),
        position_conv=side("cpe1"),
        ffn_conv=side("ffn.dwconv"),
        layer_scale=1.0 if "gamma_1" in theirs else None,
    )
    made = TransformerBlock(HYPER["dim"], heads=HYPER["heads"], hidden=HYPER["ffn"], config=config)
    made.load_state_dict(renamed(theirs))
    return made


def close(got: Tensor, name: str) -> None:
    np.testing.assert_allclose(got.detach().numpy(), V[name], **CLOSE, err_msg=name)


def picture(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unflatten(2, (HYPER["H"], HYPER["W"]))


def cases() -> list[str]:
    return [flag for flag in FLAGS if f"{flag}.block_out" in V]


@pytest.mark.parametrize("flag", cases())
def test_block_and_its_gradient(flag: str) -> None:
    x = tokens("x_BCHW").requires_grad_()
    out = picture(block(flag)(x, causal=False, grid=GRID))
    close(out, f"{flag}.block_out")
    (out * array("probe")).sum().backward()
    assert x.grad is not None
    close(picture(x.grad), f"{flag}.block_gradx")


@pytest.mark.parametrize("flag", [flag for flag in cases() if f"{flag}.attn_out" in V])
def test_attention_alone(flag: str) -> None:
    """The attention module as released: no norm before it, and what it gives, without the stream."""
    whole = block(flag)
    for part in ("attn_conv", "ffn_conv", "attn_pre", "attn_scale"):
        setattr(whole, part, None)
    whole.ffn_scale = nn.Parameter(torch.zeros(HYPER["dim"]))
    x = tokens("x_BCHW")
    close(picture(whole(x, causal=False, grid=GRID) - x), f"{flag}.attn_out")


def test_positions() -> None:
    width = V["rope.cos"].shape[-1]
    even = torch.zeros(HYPER["H"] * HYPER["W"], width)
    even[:, 0::2] = 1
    turned = ROPE["2d"](even, position=GRID.positions(even.device), theta=10_000.0)
    close(turned[:, 0::2].repeat_interleave(2, dim=1), "rope.cos")
    close(turned[:, 1::2].repeat_interleave(2, dim=1), "rope.sin")


def test_kernel() -> None:
    q, k, v = (array(f"core.{name}") for name in "qkv")
    lam, eps = float(HYPER["lambda"]), HYPER["eps_denominator"]
    close(KERNELS["nala"].queries(q, lam), "core.phi_q")
    close(KERNELS["nala"].keys(k, lam), "core.phi_k")
    close(linear_attention(q, k, v, kernel="nala", lam=lam, eps=eps), "core.out")
