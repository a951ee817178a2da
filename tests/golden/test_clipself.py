"""CLIPSelf's dense map, pooling, loss, gradient and mixed weights against the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from open_clip_names import clip_of
from tether.adaptation.weights import interpolate
from tether.losses import region_cosine_loss
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.region_pooling import pool_boxes, pool_masks
from tether.models.towers.clip import Clip

V = load("clipself")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def model_of(whose: str) -> Clip:
    weights = {name.removeprefix(f"{whose}/"): array(name) for name in V.arrays if name.startswith(f"{whose}/")}
    found = clip_of(weights, heads=int(HYPER["heads"]))
    assert found.image_spec.size == (HYPER["image"],) * 2
    return found


@pytest.fixture(scope="module")
def student() -> Clip:
    return model_of("student").resized(image_size=int(HYPER["input"]), how={"name": "bicubic", "antialias": False})


@pytest.fixture(scope="module")
def teacher() -> Clip:
    return model_of("teacher")


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL)


def dense(model: Clip) -> Tensor:
    return F.normalize(dense_image(model, array("image"), path=DensePath()).tokens, dim=2)


def test_dense_maps(student: Clip, teacher: Clip) -> None:
    large = teacher.resized(image_size=int(HYPER["input"]), how={"name": "bicubic", "antialias": False})
    for model, name in ((student, "dense_student"), (large, "dense_teacher")):
        check(dense(model).transpose(1, 2).unflatten(2, V[name].shape[2:]), name)


def test_regions_loss_and_gradient(student: Clip, teacher: Clip) -> None:
    boxes, valid = array("boxes")[..., :4], array("boxes")[..., 4] > 0.5
    regions = pool_boxes(dense(student), boxes, valid=valid)
    check(regions[valid], "roi_features")
    with torch.no_grad():
        crops = teacher.encode_image(array("crops").flatten(0, 1)).pooled
    check(crops, "teacher_crop_features")
    loss = region_cosine_loss(regions, crops.view_as(regions), valid=valid)
    check(loss, "loss")
    check(torch.autograd.grad(loss, student.visual.blocks[-1].qkv.weight)[0], "grad_attn_in_proj_last")


def test_masks(student: Clip) -> None:
    check(pool_masks(dense(student), array("mask"))[:, 0], "mask_pooled")


def test_mixed_weights(teacher: Clip) -> None:
    mixed = interpolate(teacher, model_of("student"), share=float(HYPER["alpha"])).state_dict()
    check(mixed["visual.projection.weight"].T, "ensemble_proj")
    check(mixed["visual.patch.weight"].view(V["ensemble_conv1"].shape), "ensemble_conv1")
