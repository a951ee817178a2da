"""jina-clip's losses of text pairs, of images and captions, and with hard negatives: every array of the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor
from torch.nn.functional import normalize

from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.methods.jina_clip import InfoNceLoss, info_nce_loss

V = load("jina-clip")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
INPUTS = ("query", "positive", "negatives", "image", "caption")

precisions = pytest.mark.parametrize("precision", [name for name in PRECISIONS if name in V.meta["tolerance"]])


def inputs(precision: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(V[name]).to(PRECISIONS[precision]).requires_grad_() for name in INPUTS}


def close(got: Tensor, name: str, *, precision: str) -> None:
    tolerance = float(V.meta["tolerance"][precision])
    np.testing.assert_allclose(got.detach().double().numpy(), V[name], rtol=tolerance, atol=tolerance)


@precisions
def test_functions(precision: str) -> None:
    query, positive, negatives, image, caption = (normalize(rows, dim=-1) for rows in inputs(precision).values())
    tau_text, tau_image = float(V["tau_text"]), float(V["tau_image"])
    text = info_nce_loss(query, positive, tau=tau_text)
    images = info_nce_loss(image, caption, tau=tau_image)
    hard = info_nce_loss(query, positive, tau=tau_text, negatives=negatives)
    flat = info_nce_loss(query, positive, tau=tau_text, negatives=negatives.flatten(0, 1))
    none = info_nce_loss(query, positive, tau=tau_text, negatives=negatives[:, :0])
    assert torch.equal(flat.total, hard.total)
    assert torch.equal(none.total, text.total)
    found = {
        "nce_text": text.total,
        "nce_image": images.total,
        "nce_plus": hard.total,
        "nce_plus_forward": hard.forward,
        "stage12_total": text.total + images.total,
        "stage3_total": hard.total + images.total,
    }
    for name, got in found.items():
        close(got, name, precision=precision)
    mean = info_nce_loss(query, positive, tau=tau_text, negatives=negatives, symmetric="mean")
    assert torch.equal(mean.total, hard.total / 2)


@precisions
def test_objectives_and_gradients_of_raw_rows(precision: str) -> None:
    rows = inputs(precision)
    scale = rows["image"].new_tensor(1 / float(V["tau_image"]))
    wrong = Features(rows["negatives"].flatten(0, 1))
    batch = Batch(torch.zeros(len(V["query"]), 3, 1, 1), torch.arange(1, 1 + len(V["query"]))[:, None])
    pairs = Encoded(Features(rows["query"]), Features(rows["positive"]), scale, negative_text=wrong)
    images = Encoded(Features(rows["image"]), Features(rows["caption"]), scale)
    text = InfoNceLoss(tau=float(V["tau_text"]))(pairs, batch, gather=LOCAL)
    image = InfoNceLoss()(images, batch, gather=LOCAL)
    total = text.total + image.total
    close(total, "stage3_total", precision=precision)
    close(text.terms["forward"], "nce_plus_forward", precision=precision)
    total.backward()
    for name in INPUTS:
        assert rows[name].grad is not None
        close(rows[name].grad, f"grad3_{name}", precision=precision)
