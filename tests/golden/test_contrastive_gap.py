"""The terms of ContrastiveGapLoss, alone and together, with gradients through the normalisation, and the gap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load

from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.evaluate.geometry import modality_gap
from tether.methods.contrastive_gap import ContrastiveGapLoss

V = load("contrastive-gap")
CLOSE = V.meta["tolerance"]
ALONE = {"uniform": 0.0, "align": 0.0, "cross_uniform": 0.0, "contrastive": 0.0}
WEIGHTS = {
    "clip": ALONE | {"contrastive": 1.0},
    "cua": {},
    "cuaxu": {"cross_uniform": 1.0},
    "uniform_only": ALONE | {"uniform": 1.0},
    "align_only": ALONE | {"align": 1.0},
    "xuniform_only": ALONE | {"cross_uniform": 1.0},
}
CASES = sorted(V.meta["cases"])
VARIANTS = [(case, name) for case in CASES for name in WEIGHTS if f"{case}_{name}_loss" in V]


@pytest.mark.parametrize(("case", "name"), VARIANTS)
def test_loss_and_gradients(case: str, name: str) -> None:
    image, text = (torch.from_numpy(V[f"{case}_raw_{side}"].copy()).requires_grad_() for side in ("img", "txt"))
    scale = torch.tensor(1 / V.meta["cases"][case]["temperature"], dtype=image.dtype)
    batch = Batch(torch.zeros(len(image), 3, 1, 1), torch.arange(1, len(image) + 1)[:, None])
    part = ContrastiveGapLoss(**WEIGHTS[name] | {key: float(V.meta["cases"][case].get(key, 2.0)) for key in ("t",)})
    loss = part(Encoded(Features(image), Features(text), scale), batch, gather=LOCAL)
    np.testing.assert_allclose(loss.total.item(), V[f"{case}_{name}_loss"], **CLOSE)
    loss.total.backward()
    np.testing.assert_allclose(_grad(image), V[f"{case}_{name}_grad_raw_img"], **CLOSE)
    np.testing.assert_allclose(_grad(text), V[f"{case}_{name}_grad_raw_txt"], **CLOSE)


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}_centroid_distance" in V])
def test_centroid_distance(case: str) -> None:
    image, text = (F.normalize(torch.from_numpy(V[f"{case}_raw_{side}"])) for side in ("img", "txt"))
    np.testing.assert_allclose(modality_gap(image, text).item(), V[f"{case}_centroid_distance"], **CLOSE)


def _grad(leaf: torch.Tensor) -> np.ndarray:
    return np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
