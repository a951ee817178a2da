"""CLIP's and SigLIP's loss against open_clip's: every case and tolerance from the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.losses import clip_loss, siglip_loss

V = load("_baseline-clip")
CLOSE = V.meta["tolerance"]


def leaf(case: str, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(V[f"{case}_{name}"]).copy()).requires_grad_()


def compare(case: str, got: dict[str, Tensor]) -> None:
    for name, value in got.items():
        np.testing.assert_allclose(value.detach().numpy(), V[f"{case}_{name}"], **CLOSE, err_msg=name)


@pytest.mark.parametrize("case", V.meta["cases"])
def test_clip(case: str) -> None:
    image, text = leaf(case, "img"), leaf(case, "txt")
    log_scale = leaf(case, "scale").detach().log().requires_grad_()
    loss = clip_loss(image, text, log_scale.exp())
    grads = torch.autograd.grad(loss, (image, text, log_scale))
    compare(
        case,
        {"clip_loss": loss, **dict(zip(("clip_grad_img", "clip_grad_txt", "clip_grad_logscale"), grads, strict=True))},
    )


@pytest.mark.parametrize("case", V.meta["cases"])
def test_clip_through_normalise(case: str) -> None:
    image, text = leaf(case, "raw_img"), leaf(case, "raw_txt")
    loss = clip_loss(F.normalize(image, dim=-1), F.normalize(text, dim=-1), leaf(case, "scale").detach())
    grads = torch.autograd.grad(loss, (image, text))
    compare(case, dict(zip(("clip_grad_raw_img", "clip_grad_raw_txt"), grads, strict=True)))


@pytest.mark.parametrize("case", V.meta["cases"])
def test_siglip(case: str) -> None:
    image, text, bias = leaf(case, "img"), leaf(case, "txt"), leaf(case, "bias")
    log_scale = leaf(case, "scale").detach().log().requires_grad_()
    loss = siglip_loss(image, text, log_scale.exp(), bias)
    grads = torch.autograd.grad(loss, (image, text, log_scale, bias))
    names = ("siglip_grad_img", "siglip_grad_txt", "siglip_grad_logscale", "siglip_grad_bias")
    compare(case, {"siglip_loss": loss, **dict(zip(names, grads, strict=True))})
