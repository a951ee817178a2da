"""AlignCLIP's loss against the figures: both parts, the total and every gradient, case by case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.alignclip import align_clip_loss

V = load("alignclip")
CLOSE = V.meta["tolerance"]


def settings(case: dict) -> dict:
    """The release's switches in our words; without semantic supervision it separates both sides."""
    image, text = case.get("separate_image", False), case.get("separate_text", False)
    sides = "both" if image == text else ("image" if image else "text")
    return {"alpha": case.get("alpha", 1.0), "beta": case.get("beta", 0.5), "sides": sides}


@pytest.mark.parametrize("name", [name for name in sorted(V.meta["cases"]) if f"{name}_total" in V])
def test_terms_and_gradients(name: str) -> None:
    case, batch = V.meta["cases"][name], name.split("_")[0]
    leaves = [torch.from_numpy(V[f"{batch}_{part}"].copy()).requires_grad_() for part in ("img", "txt", "scale")]
    sem = torch.from_numpy(V[f"{batch}_sem"].copy()) if case.get("nl_semantic_supervision") else None
    found = align_clip_loss(*leaves, sem=sem, **settings(case))
    for part in ("total", "clip", "intra"):
        if f"{name}_{part}" in V:
            np.testing.assert_allclose(getattr(found, part).item(), V[f"{name}_{part}"], **CLOSE)
    for part, grad in zip(("img", "txt", "scale"), torch.autograd.grad(found.total, leaves), strict=True):
        if f"{name}_grad_{part}" in V:
            np.testing.assert_allclose(grad.numpy(), V[f"{name}_grad_{part}"], **CLOSE)
