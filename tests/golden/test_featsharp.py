"""FeatSharp's tiles, bias, downsamplers, fusion block, warps, losses and PHI-S against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.core.warps import homography_grid, warped
from tether.methods.featsharp import AttentionDownsampler, BiasBuffer, FusionBlock, SimpleDownsampler, create_tiles
from tether.methods.featsharp.loss import seam_weights, squared_variation, total_variation
from tether.methods.featsharp.phi_s import PhiS, hadamard

V = load("featsharp")
HYPER = V.meta["hyper"]
RTOL, WARP_RTOL = 1e-6, 1e-5  # as meta's tolerance says in words
FACTOR, SIZE = int(HYPER["factor"]), (int(HYPER["lr"]),) * 2
NAMES = {
    "block.attn.qkv": "qkv",
    "block.attn.proj": "proj",
    "block.ls1.gamma": "scale1",
    "block.mlp": "",
    "block.ls2.gamma": "scale2",
    "block.norm": "norm",
}


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def check(ours: Tensor, name: str, *, rtol: float = RTOL) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=rtol, atol=rtol)


def toy(images: Tensor) -> Tensor:
    pooled = F.avg_pool2d(images, int(HYPER["patch"]))
    return torch.einsum("dc,bchw->bdhw", array("toy_map"), pooled) + array("toy_bias")


def test_tiles_and_bias() -> None:
    low, tiles = create_tiles(array("image"), toy, size=(int(HYPER["image"]),) * 2, factor=FACTOR)
    check(low, "low")
    check(tiles, "tiles")
    buffer = BiasBuffer(int(HYPER["C"]), grid=SIZE).double()
    buffer.bias.data.copy_(-array("toy_bias"))
    check(buffer(low), "debiased_low")
    check(buffer(torch.zeros(1, *V["bias_resized"].shape[1:], dtype=torch.float64)), "bias_resized", rtol=WARP_RTOL)


def test_downsamplers() -> None:
    simple = SimpleDownsampler(kernel=int(HYPER["kernel"])).double()
    simple.kernel.data.copy_(array("simple_kernel"))
    check(simple(array("hi"), size=SIZE), "simple_down")
    attention = AttentionDownsampler(int(HYPER["C"]), kernel=int(HYPER["kernel"])).double()
    attention.load_state_dict({name: array(f"att_down/{name}") for name in attention.state_dict()})
    check(attention(array("hi"), size=SIZE, uniform=array("att_down_uniform")), "att_down")


def test_fusion_block() -> None:
    block = FusionBlock(
        int(HYPER["C"]), factor=FACTOR, window=int(HYPER["window"]), norm="none" if HYPER["no_ln"] else "layer"
    ).double()
    state = {}
    for name in (name.removeprefix("level/") for name in V.arrays if name.startswith("level/")):
        ours = name
        for theirs, short in NAMES.items():
            ours = ours.replace(theirs, short, 1) if ours.startswith(theirs) else ours
        state[ours.lstrip(".")] = array(f"level/{name}")
    block.load_state_dict(state)
    check(block(array("level_low"), array("level_tiles")), "level_out")


def test_warps() -> None:
    size = V["grid"].shape[1:3]
    grid = homography_grid(torch.from_numpy(V["homography"]), size=(size[0], size[1]))
    check(grid, "grid", rtol=WARP_RTOL)
    check(warped(array("hi").float(), torch.from_numpy(V["grid"])), "warped", rtol=WARP_RTOL)


def test_losses() -> None:
    check(total_variation(array("hi"), valid=array("tv_valid")), "tv_loss")
    check(squared_variation(array("hi")), "tv_old")
    size = V["loss_grid"].shape[2:]
    check(seam_weights(size=(size[0], size[1]), factor=FACTOR), "loss_grid", rtol=WARP_RTOL)


@pytest.mark.parametrize("size", HYPER["hadamard"])
def test_hadamard(size: int) -> None:
    np.testing.assert_allclose(hadamard(size), V[f"hadamard_{size}"], rtol=RTOL, atol=RTOL)


def test_phi_s() -> None:
    rows = V["phis_x"]
    phi = PhiS().fit(rows)
    np.testing.assert_allclose(phi.mean_, V["phis_mean"], rtol=RTOL)
    np.testing.assert_allclose(phi.alpha_, V["phis_alpha"], rtol=RTOL)
    after = np.cov(phi.transform(rows).T)
    np.testing.assert_allclose(np.diag(after), np.diag(V["phis_cov_after"]), rtol=RTOL)
    assert np.abs(phi.inverse_transform(phi.transform(rows)) - rows).max() <= max(
        1e-12, float(V["phis_roundtrip_error"])
    )
