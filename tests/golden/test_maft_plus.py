"""MAFT+'s transfer, classes of masks and losses against the figures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.losses.mask_aware import compensation_loss, mask_aware_loss, pooled_sums, relative_iou, soft_iou
from tether.models.features.region_pooling import pool_masks
from tether.models.heads.content_transfer import ContentDependentTransfer, region_text_logits
from tether.models.towers.positions import sine_grid

V = load("maft-plus")
HYPER = V.meta["hyper"]
RTOL = float(str(re.findall(r"1e-\d+", str(V.meta["tolerance"]))[0]))
NAMES = {"multihead_attn": "attention", "norm": "norm", "MLP": "linear"}
MAPS = sorted(name.removeprefix("rc_a_") for name in V.arrays if name.startswith("rc_a_"))
IMAGES = range(int(HYPER["B"]))
FINE = {"scale": float(np.exp(HYPER["log_scale"])), "synonyms": list(HYPER["num_templates"])}


def tensor(name: str) -> Tensor:
    value = torch.from_numpy(V[name].copy())
    return value.double() if value.is_floating_point() else value


def check(ours: Tensor, name: str, *, atol: float = RTOL * 1e-1) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=atol, err_msg=name)


def transfer() -> ContentDependentTransfer:
    start = "identity" if HYPER["panoptic_on"] else "norm"
    made = ContentDependentTransfer(int(HYPER["C"]), heads=int(HYPER["heads"]), start=start).double()
    weights = {}
    for name in V.arrays:
        if name.startswith("cdt/cross_atten."):
            part, rest = name.removeprefix("cdt/cross_atten.").split(".", 1)
            weights[f"{NAMES[part]}.{rest}"] = tensor(name)
    made.load_state_dict(weights)
    return made


def truth() -> tuple[Tensor, Tensor, Tensor]:
    """Masks, labels and which are some, padded to as many for each image."""
    most = max(len(V[f"gt_labels_{image}"]) for image in IMAGES)
    masks = torch.zeros(len(IMAGES), most, *V["gt_masks_0"].shape[1:], dtype=torch.bool)
    labels, valid = torch.zeros(len(IMAGES), most, dtype=torch.long), torch.zeros(len(IMAGES), most, dtype=torch.bool)
    for image in IMAGES:
        count = len(V[f"gt_labels_{image}"])
        masks[image, :count], labels[image, :count] = tensor(f"gt_masks_{image}"), tensor(f"gt_labels_{image}")
        valid[image, :count] = True
    return masks, labels, valid


def named(features: Tensor, made: ContentDependentTransfer) -> Tensor:
    places, logits = features.movedim(1, -1), tensor("mask_logits")
    there = torch.ones(logits.shape[:2], dtype=torch.bool)
    pooled = pool_masks(places, logits, valid=there, resize="bilinear", above=0.0)
    return region_text_logits(pooled, made(tensor("text"), places), **FINE)


def test_positions() -> None:
    feat = V["feat"]
    table = sine_grid((feat.shape[2], feat.shape[3]), width=feat.shape[1])
    check(table.T.unflatten(1, feat.shape[2:]).expand(len(feat), -1, -1, -1), "position", atol=1e-6)  # angles to 2 pi


def test_classes_of_masks() -> None:
    features, logits = tensor("feat"), tensor("mask_logits")
    check(transfer()(tensor("text"), features.movedim(1, -1)), "adapted_text")
    there = torch.ones(logits.shape[:2], dtype=torch.bool)
    check(pool_masks(features.movedim(1, -1), logits, valid=there, resize="bilinear", above=0.0), "pooled")
    check(named(features, transfer()), "class_logits")


def test_the_mask_aware_loss_and_its_gradients() -> None:
    masks, labels, valid = truth()
    iou = soft_iou(tensor("mask_logits"), masks)
    for image in IMAGES:
        check(iou[image][valid[image]], f"iou_{image}")
        check(relative_iou(iou)[image][valid[image]], f"iou_norm_{image}")
    features, made = tensor("feat").requires_grad_(), transfer()
    loss = mask_aware_loss(named(features, made), tensor("mask_logits"), masks, labels, valid=valid)
    loss.backward()
    assert features.grad is not None
    assert made.linear.weight.grad is not None
    check(loss, "ma_loss")
    check(features.grad, "grad_feat_ma")
    check(made.linear.weight.grad, "grad_cdt_mlp")


def test_the_compensation_and_its_gradient() -> None:
    features = tensor("feat").requires_grad_()
    loss = compensation_loss(features, tensor("feat_frozen"), match_official=True)
    loss.backward()
    assert features.grad is not None
    check(loss, "rc_loss")
    check(features.grad, "grad_feat_rc")


@pytest.mark.parametrize("number", MAPS)
def test_the_compensation_of_maps_of_other_shapes(number: str) -> None:
    first, second = tensor(f"rc_a_{number}"), tensor(f"rc_b_{number}")
    check(compensation_loss(first, second, match_official=True), f"rc_{number}")
    np.testing.assert_allclose(  # some figures are stored as float32
        pooled_sums(first.relu(), match_official=True).numpy(), V[f"rc_pod_{number}"], rtol=1e-6, atol=1e-7
    )
