"""Sem-CS' losses against its released functions and a transcription of its loop."""

from __future__ import annotations

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.generation.edit import thresholded_patch_loss, tv4
from tether.losses import directional_loss

V = load("sem-cs")
HYPER = V.meta["hyper"]
SOURCES = {"all": "patches", "object": "object_glob", "background": "background_glob"}


def array(name: str, *, learnt: bool = False) -> Tensor:
    return torch.from_numpy(np.array(V[name])).requires_grad_(learnt)


def test_the_softmax_over_a_source_row() -> None:
    for name in SOURCES:
        np.testing.assert_allclose(array(f"source_{name}").softmax(dim=1), V[f"source_{name}_softmax"], rtol=1e-5)


def test_every_term_their_sum_and_its_gradients() -> None:
    made = {name: array(name, learnt=True) for name in (*SOURCES.values(), "image")}
    thing, ground = (array(f"text_{name}") - array("text_source") for name in ("object", "background"))
    ways = {"all": thing, "object": thing, "background": ground}
    terms = {
        name: directional_loss(made[rows], array(f"source_{name}_softmax"), ways[name])
        for name, rows in SOURCES.items()
    }
    np.testing.assert_allclose(terms["all"].detach(), V["patch_terms"], rtol=1e-5, atol=1e-6)
    scales = {"object_scale": HYPER["object_scale"], "ground_scale": float(HYPER["background_scale"])}
    patch = thresholded_patch_loss(terms["all"], array("is_object"), threshold=HYPER["threshold"], **scales)
    np.testing.assert_allclose(patch.item(), V["loss_patch"], rtol=1e-5)
    for name in ("object", "background"):
        np.testing.assert_allclose(terms[name].mean().item(), V[f"loss_{name}"], rtol=1e-5)
    smooth = tv4(made["image"])
    np.testing.assert_allclose(smooth.item(), V["tv"], rtol=1e-5)
    total = (
        HYPER["lambda_patch"] * patch
        + HYPER["lambda_dir_f"] * terms["object"].mean()
        + HYPER["lambda_dir_b"] * terms["background"].mean()
        + HYPER["lambda_tv"] * smooth
    )
    np.testing.assert_allclose(total.item(), V["total"], rtol=1e-5)
    total.backward()
    names = {"patches": "patches", "object_glob": "object", "background_glob": "background", "image": "image"}
    for name, value in made.items():
        wanted = V[f"grad_{names[name]}"]
        assert value.grad is not None
        np.testing.assert_allclose(value.grad, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
