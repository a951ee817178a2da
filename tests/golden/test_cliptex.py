"""Losses on pseudo-labels and the gradients of their sum with CLIP's loss, against the figures."""

from __future__ import annotations

import numpy as np
import torch
from loading import load

from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import ClipLoss
from tether.methods.cliptex.loss import PseudoLabelLoss, depth_loss, normal_loss, segmentation_loss

V = load("cliptex")
HYPER, LOSSES = V.meta["hyper"], V.meta["losses"]
TOLERANCE = float(V.meta["tolerance"])
CLOSE = {"rtol": TOLERANCE, "atol": TOLERANCE}
TASKS = ("seg", "depth", "normal")
PREDICTED = {"seg": "seg_logits", "depth": "depth_pred", "normal": "normal_pred"}


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(V[name].copy())


def test_each_loss() -> None:
    valid, ignored = tensor("valid"), int(HYPER["ignore_index"])
    found = {
        "seg": segmentation_loss(tensor("seg_logits"), tensor("seg_label"), ignore_index=ignored),
        "depth": depth_loss(tensor("depth_pred"), tensor("depth_label"), valid=valid),
        "normal_l1": normal_loss(tensor("normal_pred"), tensor("normal_label"), valid=valid),
        "normal_cos": normal_loss(tensor("normal_pred"), tensor("normal_label"), valid=valid, form="cosine"),
    }
    for name, loss in found.items():
        np.testing.assert_allclose(loss.item(), LOSSES[name], err_msg=name, **CLOSE)


def test_the_total_and_its_gradients() -> None:
    image, text = tensor("image").requires_grad_(), tensor("text")
    predicted = {task: tensor(name).requires_grad_() for task, name in PREDICTED.items()}
    weights = {task: float(HYPER[f"lambda_{task}"]) for task in TASKS}
    scale = torch.tensor(HYPER["scale"], dtype=torch.float64)
    batch = Batch(torch.empty(len(image), 0), torch.empty(len(text), 0))
    clip = ClipLoss()(Encoded(Features(image), Features(text), scale), batch, gather=LOCAL).total
    labels, valid = {task: tensor(f"{task}_label") for task in TASKS}, tensor("valid")
    dense = PseudoLabelLoss(ignore_index=int(HYPER["ignore_index"]), **weights)(
        predicted, labels, valid={"depth": valid, "normal": valid}
    )
    total = clip + dense.total
    total.backward()
    np.testing.assert_allclose(clip.item(), LOSSES["clip"], **CLOSE)
    np.testing.assert_allclose(total.item(), LOSSES["total"], **CLOSE)
    for name, leaf in {"image": image, **predicted}.items():
        np.testing.assert_allclose(leaf.grad.numpy(), V[f"grad_{name}"], err_msg=name, **CLOSE)
