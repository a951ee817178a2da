"""DCLIP's loss against the figures: every case of the file, at its tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.dclip import dclip_loss

V = load("dclip")
PREFIXES = sorted(name.removesuffix("student_image") for name in V.arrays if name.endswith("student_image"))
CASES = [prefix for prefix in PREFIXES if f"{prefix}teacher_image" in V]


@pytest.mark.parametrize("prefix", CASES)
def test_terms_and_gradient(prefix: str) -> None:
    names = ("student_image", "student_text", "teacher_image")
    image, text, teacher = (torch.from_numpy(V[f"{prefix}{name}"].copy()) for name in names)
    image.requires_grad_()
    found = dclip_loss(image, text, teacher, float(V[f"{prefix}scale"]), alpha=float(V[f"{prefix}alpha"]))
    found.total.backward()
    assert image.grad is not None
    ours = {name: getattr(found, name) for name in ("contrastive", "cosine", "total")}
    for name, value in (ours | {"grad_student_image": image.grad}).items():
        limit = float(V.meta["tolerance"][str(V[f"{prefix}{name}"].dtype)])
        np.testing.assert_allclose(value.detach().numpy(), V[f"{prefix}{name}"], rtol=limit, atol=limit)


def test_there_are_cases() -> None:
    assert CASES
