"""CLIP-Refine's loss against the released updater: every case, weight and tolerance from the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loading import as_declared, load
from torch import Tensor

from tether.core.types import Encoded, Features
from tether.methods.clip_refine import ClipRefineLoss

V = load("clip-refine")
CLOSE = V.meta["tolerance"]
CASES: dict[str, dict[str, Any]] = V.meta["cases"]
cases = pytest.mark.parametrize("name", CASES)
DISTILLERS = {"kd": "blend", "ld": "logits", "fd": "features"}
RELEASED = {
    "lambda_rand": ("lambda_rand", 1.0),
    "lambda_cont": ("lambda_cont", 1.0),
    "alpha_blending": ("alpha", 0.0),
    "temperature": ("temperature", 1.0),
}
"""Settings of the release's constructor, ours, and what the release takes where a case does not say."""
TERMS = {
    "loss_feat": "random_features",
    "loss_kd": "distillation",
    "contrastive": "contrastive",
    "modality_gap": "modality_gap",
    "feat_gap": "feature_gap",
}


def settings(case: dict[str, Any]) -> dict[str, Any]:
    found = {ours: case.get(theirs, default) for theirs, (ours, default) in RELEASED.items()}
    found["lambda_kd"] = case["lambda_kd"] if has_teacher(case) else 0.0
    return as_declared(ClipRefineLoss, found | {"distiller": DISTILLERS[case.get("distill_loss", "fd")]})


def has_teacher(case: dict[str, Any]) -> bool:
    return case.get("lambda_kd") is not None  # the release makes one only then


def encoded(image: Tensor, text: Tensor, *, scale: float) -> Encoded:
    return Encoded(Features(image), Features(text), torch.tensor(scale, dtype=torch.float64))


@cases
def test_terms_and_gradients(name: str) -> None:
    case = CASES[name]
    batch = next(batch for batch in sorted(prefixes(), key=len, reverse=True) if name.startswith(f"{batch}_"))
    image, text = (torch.from_numpy(V[f"{batch}_{side}"].copy()).requires_grad_() for side in ("img", "txt"))
    old = [torch.from_numpy(V[f"{batch}_teacher_{side}"].copy()) for side in ("img", "txt")]
    scale = float(case.get("logit_scale", V.meta["logit_scale"]))
    loss = ClipRefineLoss(**settings(case))
    teacher = encoded(*old, scale=scale) if has_teacher(case) else None
    got = loss(encoded(image, text, scale=scale), teacher=teacher, z=torch.from_numpy(V[f"{name}_z"].copy()))
    grads = torch.autograd.grad(got.total, (image, text))
    compared = 0
    for theirs, ours in TERMS.items():
        if f"{name}_{theirs}" in V:
            np.testing.assert_allclose(got.terms[ours].numpy(), V[f"{name}_{theirs}"], **CLOSE)
            compared += 1
    for side, grad in zip(("img", "txt"), grads, strict=True):
        np.testing.assert_allclose(grad.numpy(), V[f"{name}_grad_{side}"], **CLOSE)
    assert compared


def prefixes() -> list[str]:
    return [name.removesuffix("_teacher_img") for name in V.arrays if name.endswith("_teacher_img")]


def test_there_are_cases() -> None:
    assert CASES
