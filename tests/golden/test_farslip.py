"""FarSLIP's dense tokens, regions, distillation, losses of categories and gradients against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from open_clip_names import clip_of
from tether.core.types import Features
from tether.losses import patch_distill_loss, region_contrast_loss
from tether.losses.region_distill import Towards
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.region_pooling import pool_boxes
from tether.models.towers.clip import Clip

V = load("farslip")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
SELF_CORRELATION = DensePath(kind="qkv", letters="sum", residual=False, feed_forward=False)
PATHS = {"SegEarth": SELF_CORRELATION, "MaskCLIP": DensePath(), "None": None}
LOSSES: dict[str, Towards] = {"roi2pooled": "patch", "roi2cls": "cls", "combined": "both"}


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].astype(np.float64))


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL)


@pytest.fixture(scope="module")
def model() -> Clip:
    weights = {name.removeprefix("vis/"): array(name) for name in V.arrays if name.startswith("vis/")}
    return clip_of(weights, heads=int(HYPER["heads"]), activation="quick_gelu")


@pytest.mark.parametrize("last", PATHS)
def test_tokens(model: Clip, last: str) -> None:
    found = dense_image(model, array("image"), path=PATHS[last], layer=-2 if last == "None" else -1)
    check(found.tokens, f"tokens_{last}")
    check(found.pooled, "pooled")


def parts(model: Clip) -> tuple[Tensor, Features]:
    """Regions of the whole images, and their crops."""
    tokens = dense_image(model, array("image"), path=SELF_CORRELATION).tokens
    side = round(tokens.shape[1] ** 0.5)
    boxes = array("boxes")
    regions = pool_boxes(tokens, boxes[..., :4], valid=boxes[..., 4] > 0.5, bins=(side, side)).flatten(0, 1)
    return regions, dense_image(model, array("crops"), path=SELF_CORRELATION)


def test_distillation(model: Clip) -> None:
    regions, crops = parts(model)
    check(F.normalize(regions, dim=1), "roi")
    check(crops.pooled, "crop_pooled")
    check(crops.tokens, "crop_tokens")
    for name, target in LOSSES.items():
        check(patch_distill_loss(regions, crops.tokens, crops.pooled, target=target), f"distill_{name}")


@pytest.mark.parametrize(("name", "learn"), [("active", "yes"), ("frozen", "no")])
def test_gradient(model: Clip, name: str, learn: str) -> None:
    regions, crops = parts(model)
    loss = patch_distill_loss(regions, crops.tokens, crops.pooled, targets_learn=learn)
    check(torch.autograd.grad(loss, model.visual.blocks[-1].qkv.weight)[0], f"grad_{name}")


@pytest.mark.parametrize("form", ["mpcl", "padded_clip"])
def test_regions_and_categories(form: str) -> None:
    image, text, ids = array("region_image").requires_grad_(), array("region_text"), torch.from_numpy(V["categories"])
    more = int(HYPER["pad"]) - len(image)
    rows = [F.normalize(one, dim=1) if form == "mpcl" else one for one in (image, text)]
    loss = region_contrast_loss(
        F.pad(rows[0], (0, 0, 0, more)),
        F.pad(rows[1], (0, 0, 0, more)),
        float(HYPER["scale"]),
        ids=F.pad(ids, (0, more), value=-1),
        valid=F.pad(ids >= 0, (0, more)),
        equal="each" if form == "mpcl" else "negatives",
        padding="left_out" if form == "mpcl" else "negatives",
    )
    check(loss, f"{form}_loss")
    check(torch.autograd.grad(loss, image)[0], f"{form}_grad")
