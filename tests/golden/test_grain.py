"""GRAIN's matching and losses against the figures: every case of the file, at its tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.losses import box_cost, box_loss, hungarian_match
from tether.methods.grain import description_loss

V = load("grain")
HYPER = V.meta["hyper"]
RTOL = float(str(V.meta["tolerance"]).split()[-1])
PREFIXES = sorted(name.removesuffix("pred_boxes") for name in V.arrays if name.endswith("pred_boxes"))
CASES = [prefix for prefix in PREFIXES if not prefix.endswith("grad_")]
MATCHING = {"l1": float(HYPER["cost_l1"]), "giou": float(HYPER["cost_giou"]), "eps": float(HYPER["iou_eps"])}


def given(prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    pred, boxes = (torch.from_numpy(V[prefix + name].copy()) for name in ("pred_boxes", "gt_boxes_xyxy_224"))
    return pred, boxes.clamp(0, 224) / 224, torch.from_numpy(V[f"{prefix}avail"] > 0)


def check(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-3)


@pytest.mark.parametrize("prefix", CASES)
def test_cost_and_match(prefix: str) -> None:
    pred, boxes, valid = given(prefix)
    check(box_cost(pred, boxes, valid=valid, **MATCHING), f"{prefix}cost")
    found = hungarian_match(pred, boxes, valid=valid, **MATCHING)
    np.testing.assert_array_equal(found.numpy(), V[f"{prefix}match"])


@pytest.mark.parametrize("prefix", CASES)
def test_boxes(prefix: str) -> None:
    pred, boxes, valid = given(prefix)
    pred.requires_grad_()
    weights = {"l1": float(HYPER["w_l1"]), "giou": float(HYPER["w_giou"])}
    match = hungarian_match(pred, boxes, valid=valid, **MATCHING)
    found = box_loss(pred, boxes, valid=valid, match=match, eps=MATCHING["eps"], over="process", **weights)
    found.total.backward()
    assert pred.grad is not None
    for ours, name in ((found.total, "box_loss"), (found.l1, "loss_l1"), (found.giou, "loss_giou")):
        check(ours, prefix + name)
    check(pred.grad, f"{prefix}grad_pred_boxes")


@pytest.mark.parametrize("prefix", CASES)
def test_descriptions(prefix: str) -> None:
    regions = torch.from_numpy(V[f"{prefix}obj_embeds"].copy()).requires_grad_()
    loss, accuracy = description_loss(
        regions,
        descriptions=torch.from_numpy(V[f"{prefix}desc_embeds"]),
        match=torch.from_numpy(V[f"{prefix}match"]),
        valid=given(prefix)[2],
        logit_scale=float(HYPER["logit_scale"]),
    )
    loss.backward()
    assert regions.grad is not None
    check(loss, f"{prefix}word_loss")
    check(regions.grad, f"{prefix}grad_obj_embeds")
    assert 100 * float(accuracy) == pytest.approx(float(V[f"{prefix}word_acc"]), abs=1e-4)  # the release's are percents


def test_there_are_cases() -> None:
    assert CASES
