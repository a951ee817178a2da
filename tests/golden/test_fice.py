"""FICE's losses, their sum, its gradients and the image with the head pasted back, against the released functions."""

from __future__ import annotations

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.generation import FICE_WEIGHTS
from tether.generation.edit.kept_parts import changed_maps, changed_outside, code_spread, pasted, text_gap

V = load("fice")
TOLERANCE = float(V.meta["tol"])


def array(name: str, *, learnt: bool = False) -> Tensor:
    return torch.from_numpy(np.array(V[name])).requires_grad_(learnt)


def terms(generated: Tensor, w: Tensor) -> dict[str, Tensor]:
    return {
        "clip": text_gap(array("clip_similarity")),
        "img": changed_outside(generated, array("real"), array("body_mask")),
        "shape": changed_maps(array("shape_gen"), array("shape_real")),
        "head_shape": changed_maps(array("head_gen"), array("head_mask")),
        "w_delta": code_spread(w),
    }


def test_the_weights_are_those_of_the_release() -> None:
    assert V.meta["hyper"] == FICE_WEIGHTS


def test_losses_and_gradients() -> None:
    generated, w = array("generated", learnt=True), array("w", learnt=True)
    found = terms(generated, w)
    for name, loss in found.items():
        np.testing.assert_allclose(loss.item(), V[f"loss_{name}"], rtol=TOLERANCE)
    total = torch.stack([FICE_WEIGHTS[name] * loss for name, loss in found.items()]).sum()
    np.testing.assert_allclose(total.item(), V["total"], rtol=TOLERANCE)
    total.backward()
    for name, value in (("generated", generated), ("w", w)):
        assert value.grad is not None
        np.testing.assert_allclose(value.grad, V[f"grad_{name}"], rtol=TOLERANCE, atol=1e-7)
    assert w.grad is not None
    assert bool(w.grad[:, 0].any())


def test_the_head_is_pasted_back() -> None:
    made = pasted(array("generated"), array("real"), array("head_mask"))
    np.testing.assert_allclose(made, V["final"], atol=1e-7)
