"""ArcMargin and its form over several captions: values and gradients, every tolerance from the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.methods.retrieval_align import ArcMarginHead, multi_caption_arc_loss

V = load("retrieval-align")
CLOSE = {name: {"rtol": limit, "atol": limit} for name, limit in V.meta["tolerance"].items()}
SETTINGS = {"scale": float(V["scale"]), "margin": float(V["margin"])}
PRECISIONS = [pytest.param(getattr(torch, name), id=name) for name in CLOSE]


def at(name: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(V[name].copy()).to(dtype)


def equal(found: Tensor, name: str) -> None:
    close = CLOSE[str(found.dtype).removeprefix("torch.")]
    np.testing.assert_allclose(found.detach().numpy(), V[name], **close)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_class_vectors(dtype: torch.dtype) -> None:
    weight, x, labels = at("class_weight", dtype), at("x", dtype).requires_grad_(), torch.from_numpy(V["label"].copy())
    head = ArcMarginHead(weight.shape[1], classes=len(weight), **SETTINGS).to(dtype)
    head.weight.data.copy_(weight)
    equal(head(x, labels=labels), "arc_logits")
    loss = head.loss(x, labels=labels)
    equal(loss, "arc_loss")
    loss.backward()
    assert x.grad is not None
    assert head.weight.grad is not None
    equal(x.grad[len(x) - len(V["arc_grad_x"]) :], "arc_grad_x")
    equal(head.weight.grad, "arc_grad_w")


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_several_captions(dtype: torch.dtype) -> None:
    x = at("mc_x", dtype).requires_grad_()
    loss = multi_caption_arc_loss(x, at("captions", dtype), **SETTINGS)
    equal(loss, "mc_loss")
    loss.backward()
    assert x.grad is not None
    equal(x.grad, "mc_grad_x")
