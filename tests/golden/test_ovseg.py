"""OVSeg's mask prompts, masked crops and ensemble against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from open_clip_names import clip_of
from tether.methods.ovseg.mask_classes import combine, pixel_scores
from tether.methods.ovseg.mask_prompts import MaskPromptTower, kept_patches
from tether.methods.ovseg.masked_crops import masked_crop

V = load("ovseg")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
PREFIX, PROMPTS = "vis/", "mask_embedding"
CROPS = list(enumerate(HYPER["crops"]))


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-3)


@pytest.fixture(scope="module")
def tower() -> MaskPromptTower:
    weights = {name.removeprefix(PREFIX): array(name) for name in V.arrays if name.startswith(PREFIX)}
    prompts = weights.pop(PROMPTS)
    model = clip_of(weights, heads=int(HYPER["heads"]), activation=str(HYPER["act"]))
    found = MaskPromptTower.from_clip(model, depth=int(HYPER["depth"]))
    found.prompts.data.copy_(prompts)
    return found


def test_embeddings_and_gradient(tower: MaskPromptTower) -> None:
    image, mask = array("image"), array("mask")
    check(tower(image), "feat_no_mask")
    found = tower(image, mask)
    check(found, "feat_mask")
    loss = (F.normalize(found, dim=1) * array("probe")).sum()
    check(torch.autograd.grad(loss, tower.prompts)[0], "grad_mask_embedding")
    np.testing.assert_array_equal(kept_patches(mask, patch=int(HYPER["patch"])).numpy(), V["token_keep"])


@pytest.mark.parametrize(("number", "given"), CROPS)
def test_crops(number: int, given: tuple[list[float], float]) -> None:
    box, expand = given
    found = masked_crop(array("crop_image"), array(f"crop_in_mask_{number}"), box=box, expand=float(expand))
    check(found.pixels, f"crop_{number}")
    np.testing.assert_array_equal(found.mask[None].numpy(), V[f"crop_mask_{number}"])


def test_semantic_map() -> None:
    masks = array("mask_class_logits").softmax(dim=1)[:, :-1]
    clip = array("clip_class_logits")[:, :-1].softmax(dim=1)
    weight = float(HYPER["weight"])
    found = combine(masks, clip, weight=max(weight, 0.0), valid=array("valid"))
    check(pixel_scores(found, array("mask_logits").sigmoid()), "semseg")
