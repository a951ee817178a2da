"""CLIPDraw's strokes against a transcription and a port of diffvg, its blobs against the released code, its loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.generation import Moment, TextAim
from tether.generation.canvases import Camera, StrokeCanvas, render_blobs, render_strokes

V = load("clipdraw")
HYPER = V.meta["hyper"]
SIDE = HYPER["canvas"]
NAMES = ("points", "width", "color")


def array(name: str, *, learnt: bool = False) -> Tensor:
    return torch.from_numpy(np.array(V[name])).requires_grad_(learnt)


@pytest.mark.parametrize("reach", [None, math.inf])
def test_strokes(reach: float | None) -> None:
    points, width, color = (array(f"s2_{name}", learnt=True) for name in NAMES)
    image = render_strokes(
        points, array("s2_npoints"), width, color, size=(SIDE, SIDE),
        samples=HYPER["samples_per_segment"], tau=HYPER["tau"], reach=reach,
    ).permute(1, 2, 0)  # fmt: skip
    np.testing.assert_allclose(image.detach(), V["s2_image"], atol=1e-9)
    loss = ((image - array("s2_target")) ** 2).mean()
    np.testing.assert_allclose(loss.item(), V["s2_loss"], atol=1e-9)
    loss.backward()
    for name, found in zip(NAMES, (points, width, color), strict=True):
        assert found.grad is not None
        np.testing.assert_allclose(found.grad, V[f"s2_grad_{name}"], atol=1e-9)


def test_a_canvas_of_strokes_is_near_another_renderer() -> None:
    canvas = StrokeCanvas.of(*(array(f"s2_{name}") for name in ("points", "npoints", "width", "color")), size=SIDE)
    gap = (canvas.render().permute(1, 2, 0) - array("s2_reference")).abs().mean().item()
    assert gap < 0.021
    np.testing.assert_allclose(gap, HYPER["mean_abs_gap_to_reference"], atol=1e-6)
    svg = canvas.to_svg()
    for wide in (2 * V["s2_width"]).tolist():
        assert f'stroke-width="{wide:g}"' in svg


def test_strokes_in_space() -> None:
    places, width, color = (array(f"s3_{name}", learnt=True) for name in ("xyz", "width", "rgba"))
    x, y, z = V["s3_camera"].tolist()
    camera = Camera((x, y, z), tuple(HYPER["camera_target"]))
    image = render_blobs(places, width, color, camera=camera, size=SIDE, density=float(HYPER["density"]))
    image = image.permute(1, 2, 0)
    np.testing.assert_allclose(image.detach(), V["s3_image"], atol=1e-5)
    loss = ((image - array("s3_target")) ** 2).mean()
    np.testing.assert_allclose(loss.item(), V["s3_loss"], rtol=1e-6)
    loss.backward()
    for name, found in (("xyz", places), ("width", width), ("rgba", color)):
        assert found.grad is not None
        np.testing.assert_allclose(found.grad, V[f"s3_grad_{name}"], rtol=1e-3, atol=1e-8)


def test_the_loss_is_a_sum_over_views() -> None:
    rows = torch.nn.functional.normalize(array("image_feats"), dim=1)
    loss = TextAim(array("text"))(rows, Moment())
    np.testing.assert_allclose(loss, V["loss"][0], atol=1e-12)
    away = [TextAim(array(name), weight=-0.3)(rows, Moment()) for name in ("neg1", "neg2")]
    np.testing.assert_allclose(loss + sum(away), V["loss_negative"][0], atol=1e-12)
