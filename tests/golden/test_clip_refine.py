"""CLIP-Refine's loss against the released updater: every case, weight and tolerance from the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loading import as_declared, load
from torch import Tensor

from tether.adapt.finetune import ClipRefineLoss
from tether.core.types import Encoded, Features

V = load("clip-refine")
CLOSE = V.meta["tolerance"]
CASES: dict[str, dict[str, Any]] = V.meta["cases"]
cases = pytest.mark.parametrize("name", CASES)
DISTILLERS = {"kd": "blend", "ld": "logits", "fd": "features"}
TERMS = {
    "loss_feat": "random_features",
    "loss_kd": "distillation",
    "contrastive": "contrastive",
    "modality_gap": "modality_gap",
    "feat_gap": "feature_gap",
}


def settings(case: dict[str, Any]) -> dict[str, Any]:
    named = {"alpha_blending": "alpha", "temperature": "temperature"}
    found = {key: case[key] for key in ("lambda_rand", "lambda_cont") if key in case}
    found |= {ours: case[theirs] for theirs, ours in named.items() if theirs in case}
    found["lambda_kd"] = case.get("lambda_kd") or 0.0  # the release makes no teacher where it is not given
    if case.get("distill_loss"):
        found["distiller"] = DISTILLERS[case["distill_loss"]]
    return as_declared(ClipRefineLoss, found)


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
    teacher = encoded(*old, scale=scale) if case.get("distill_loss") else None
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
