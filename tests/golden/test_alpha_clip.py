"""Alpha-CLIP's image tower, loss, gradient and rates against the released code."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.core.types import ImageSpec
from tether.losses.clip import clip_loss
from tether.methods.alpha_clip.convert import load_alpha_clip_
from tether.models.encoders.region_tower import (
    AlphaVisionTower,
    alpha_from_mask,
    alpha_param_groups,
    encode_regions,
)
from tether.models.features.attention_maps import attention_maps
from tether.models.towers.blocks.block import BlockConfig
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig, TextConfig, VisionConfig
from tether.training.schedules import Cosine

V = load("alpha-clip")
HYPER = V.meta["hyper"]
_NUMBERS = [float(found) for found in re.findall(r"\d+e-\d+", V.meta["tolerance"])]
CLOSE, LOSS, RATE = ({"rtol": 0.0, "atol": value} for value in _NUMBERS)


@pytest.fixture(scope="module")
def model() -> Clip:
    weights = {name.removeprefix("w_"): torch.from_numpy(V[name]) for name in V.arrays if name.startswith("w_")}
    width, dim = weights["proj"].shape
    block = BlockConfig(activation="quick_gelu")
    height, width_of_image = V["image"].shape[2:]
    vision = VisionConfig(
        image=ImageSpec((int(height), int(width_of_image))),
        patch=int(weights["conv1.weight"].shape[-1]),
        width=int(width),
        layers=int(HYPER["layers"]),
        heads=int(HYPER["heads"]),
        hidden=int(weights["transformer.resblocks.0.mlp.c_fc.bias"].shape[0]),
        block=block,
    )
    text = TextConfig(context=8, width=16, layers=1, heads=1, hidden=16, block=block)
    made = Clip(ModelConfig(dim=int(dim), vision=vision, text=text))
    made.initialise_(torch.Generator().manual_seed(0))
    return load_alpha_clip_(made, {name: value.float() for name, value in weights.items()}).eval()


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].astype(np.float32))


def test_alpha() -> None:
    found = alpha_from_mask(torch.from_numpy(V["mask"]), size=V["image"].shape[2:])
    np.testing.assert_allclose(found.numpy(), V["alpha"], **CLOSE)


def test_features(model: Clip) -> None:
    tower, image = AlphaVisionTower(model), array("image")
    with torch.no_grad():
        np.testing.assert_allclose(tower(image, array("alpha")).numpy(), V["feat"], **CLOSE)
        zeros = torch.zeros_like(array("alpha"))
        np.testing.assert_allclose(tower(image, zeros).numpy(), V["feat_alpha_zero_input"], **CLOSE)
        plain = AlphaVisionTower.from_clip(model)
        plain.stem.alpha.zero_()
        np.testing.assert_allclose(plain(image, array("alpha")).numpy(), V["feat_zero_conv"], **CLOSE)
        np.testing.assert_allclose(plain(image).numpy(), V["feat_zero_conv"], **CLOSE)


def test_attention(model: Clip) -> None:
    with torch.no_grad(), AlphaVisionTower(model).stem.seeing(array("alpha")):
        found = attention_maps(model, array("image"), rows="all", layers=[-1])
    np.testing.assert_allclose(found.flatten(0, 2).numpy(), V["attn_last"], **CLOSE)


def test_loss_and_gradient(model: Clip) -> None:
    image = F.normalize(encode_regions(model, array("image"), alpha=array("alpha")), dim=1)
    text = F.normalize(array("text_feat"), dim=1)
    scale = math.exp(HYPER["log_scale"])
    loss = clip_loss(image, text, scale, label_smoothing=HYPER["label_smoothing"])
    np.testing.assert_allclose(loss.item(), V["loss"], rtol=2e-6, atol=LOSS["atol"])  # of float32, and about 31
    kernel = AlphaVisionTower(model).stem.alpha
    (gradient,) = torch.autograd.grad(loss, kernel)
    np.testing.assert_allclose(gradient.view(V["grad_conv1_alpha"].shape).numpy(), V["grad_conv1_alpha"], **CLOSE)


def test_rates(model: Clip) -> None:
    groups = alpha_param_groups(model, lr=HYPER["lr"], gamma=HYPER["para_gamma"])
    schedule = Cosine(warmup=HYPER["warmup"])
    factors = [schedule.factor(step, steps=HYPER["steps"]) for step in range(len(V["lr_alpha_other"]))]
    found = np.outer(factors, [group["lr"] for group in groups])
    assert [group["name"] for group in groups] == ["alpha", "image tower"]
    np.testing.assert_allclose(found, V["lr_alpha_other"], **RATE)
