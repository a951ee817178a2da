"""CLIP, NegCLIP and TripletCLIP, values and gradients: every case, scale and tolerance from the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.losses import clip_loss
from tether.methods.tripletclip import neg_clip_accuracy, neg_clip_loss, triplet_clip_loss

V = load("tripletclip")
CLOSE = V.meta["tolerance"]
ROWS = ("img", "txt", "neg_img", "neg_txt")


def clip(img: Tensor, txt: Tensor, neg_img: Tensor, neg_txt: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return clip_loss(img, txt, scale), neg_clip_accuracy(img, txt)


def negclip(img: Tensor, txt: Tensor, neg_img: Tensor, neg_txt: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return neg_clip_loss(img, txt, neg_txt, scale), neg_clip_accuracy(img, txt, neg_txt)


def tripletclip(img: Tensor, txt: Tensor, neg_img: Tensor, neg_txt: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    terms = triplet_clip_loss(img, txt, neg_img, neg_txt, scale)
    return terms.total, terms.accuracy


LOSSES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "clip": clip,
    "negclip": negclip,
    "tripletclip": tripletclip,
}


CASES = [
    (name, key.removesuffix(f"_{name}_loss"))
    for key in sorted(V.arrays)
    for name in LOSSES
    if key.endswith(f"_{name}_loss")
]


def test_the_file_has_cases() -> None:
    assert CASES


@pytest.mark.filterwarnings("ignore::tether.losses.EqualNegativesWarning")
@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{case}-{name}" for name, case in CASES])
def test_loss_accuracy_and_gradients(name: str, case: str) -> None:
    absent = np.full_like(V[f"{case}_img"], np.nan)
    leaves = {row: V.arrays.get(f"{case}_{row}", absent) for row in ROWS}
    leaves = {row: torch.from_numpy(values.copy()).requires_grad_() for row, values in leaves.items()}
    scale = torch.from_numpy(np.array(V[f"{case}_scale"])).requires_grad_()
    loss, accuracy = LOSSES[name](*leaves.values(), scale)
    np.testing.assert_allclose(loss.item(), V[f"{case}_{name}_loss"], **CLOSE)
    if f"{case}_{name}_acc" in V:  # a log of float32, whichever way it was rounded
        np.testing.assert_allclose(accuracy.item(), V[f"{case}_{name}_acc"], rtol=2 * np.finfo(np.float32).eps)
    loss.backward()
    for row, leaf in [*leaves.items(), ("scale", scale)]:
        if f"{case}_{name}_grad_{row}" in V:
            assert leaf.grad is not None
            np.testing.assert_allclose(leaf.grad.numpy(), V[f"{case}_{name}_grad_{row}"], **CLOSE)
