"""CLIPDrawX's primitives, patches, dropout and losses against a transcription of the sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.generation import Moment, TextAim
from tether.generation.canvases import PrimitiveCanvas, drop_mask
from tether.generation.canvases.primitives import base_points, patch_order
from tether.methods.clipdrawx.likeness import feature_loss

V = load("clipdrawx")
HYPER = V.meta["hyper"]


def array(name: str) -> Tensor:
    return torch.from_numpy(np.array(V[name]))


@pytest.mark.parametrize("kind", ["line", "semicircle", "circle"])
def test_primitives_and_their_maps(kind: str) -> None:
    base = base_points(kind, dtype=torch.float64)  # pyrefly: ignore
    np.testing.assert_allclose(base, V[f"{kind}_base"], atol=1e-12)
    many = len(V[f"{kind}_A"])
    canvas = PrimitiveCanvas(kinds={kind: many}, patches=1, patch=16, size=16).double()  # pyrefly: ignore
    canvas.base = base.repeat(many, 1)
    with torch.no_grad():
        canvas.A.copy_(array(f"{kind}_A"))
        canvas.b.copy_(array(f"{kind}_b"))
    np.testing.assert_allclose(canvas.points().detach(), V[f"{kind}_points"].reshape(-1, 2), atol=1e-10)


def test_patches_with_the_most_attention_come_first() -> None:
    order, middles = patch_order(array("attention"), HYPER["patch"])
    np.testing.assert_array_equal(order[: HYPER["k"]], V["patch_order"])
    np.testing.assert_allclose(middles[: HYPER["k"]], V["patch_centre"])


def test_dropout_keeps_one() -> None:
    for u, p, keep in zip(array("drop_uniform"), V["drop_p"].tolist(), V["drop_keep"], strict=True):
        np.testing.assert_array_equal(drop_mask(u, p), keep)


def test_losses() -> None:
    rows = torch.nn.functional.normalize(array("image_feats"), dim=1)
    semantic = TextAim(array("text"), weight=HYPER["lambda_sem"], reduction="mean")(rows, Moment())
    np.testing.assert_allclose(semantic, V["loss_sem"], atol=1e-10)
    layers = sorted(name.removeprefix("vis_a") for name in V.arrays if name.startswith("vis_a"))
    visual = feature_loss([array(f"vis_a{one}") for one in layers], [array(f"vis_b{one}") for one in layers])
    np.testing.assert_allclose(visual, V["loss_vis"], atol=1e-10)
    np.testing.assert_allclose(semantic + HYPER["lambda_vis"] * visual, V["loss_total"], atol=1e-10)
