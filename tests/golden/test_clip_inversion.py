"""CLIP-inversion's field, its perturbed weights, schedule, rotation and targets against a transcription."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor, nn

from tether.generation import FinerField, InversionAim, Moment, layer_schedule, local_procrustes
from tether.generation.inversion.bank import blended
from tether.generation.inversion.field_fit import adversarial_gradients, perturbed
from tether.generation.inversion.implicit import mean_row

V = load("clip-inversion")
HYPER = V.meta["hyper"]


def array(name: str) -> Tensor:
    V.need(name)
    return torch.from_numpy(np.array(V[name]))


@pytest.fixture
def field() -> FinerField:
    layers, width = HYPER["layers"], HYPER["width"]
    made = FinerField(size=8, width=width, layers=layers, omega=HYPER["omega"]).double()
    made.load_state_dict({
        f"linears.{number}.{kind}": array(f"{letter}{number}")
        for number in range(layers + 1)
        for kind, letter in (("weight", "W"), ("bias", "b"))
    })  # fmt: skip
    return made


def weights(field: FinerField) -> list[nn.Parameter]:
    return [one for name, one in field.named_parameters() if name.endswith("weight")]


def loss_of(field: FinerField) -> Tensor:
    return F.mse_loss(field(array("coords")), array("target"))


def check_gradients(field: FinerField, prefix: str) -> None:
    for number, linear in enumerate(field.linears):
        for name, one in linear.named_parameters():
            key = f"{prefix}g{'W' if name == 'weight' else 'b'}{number}"
            if key in V:
                np.testing.assert_allclose(one.grad, V[key], atol=1e-9)


def test_the_field(field: FinerField) -> None:
    for number, hidden in enumerate(field.hidden(array("coords"))):
        np.testing.assert_allclose(hidden.detach(), V[f"hidden{number}"], atol=1e-9)
    np.testing.assert_allclose(field(array("coords")).detach(), V["output"], atol=1e-9)
    loss = loss_of(field)
    np.testing.assert_allclose(loss.item(), V["loss"], atol=1e-9)
    loss.backward()
    check_gradients(field, "")


def test_perturbed_weights_and_that_they_are_put_back(field: FinerField) -> None:
    before = {name: value.clone() for name, value in field.state_dict().items()}
    grads = torch.autograd.grad(loss_of(field), weights(field))
    with perturbed(weights(field), grads, gamma=HYPER["gamma"]) as added:
        moved = loss_of(field).item()
    for number, more in enumerate(added):
        np.testing.assert_allclose(more, V[f"awp_dW{number}"], atol=1e-9)
    moving = list(field.parameters())
    loss, found = adversarial_gradients(lambda: loss_of(field), moving, weights=weights(field), gamma=HYPER["gamma"])
    np.testing.assert_allclose([moved, loss.item()], V["awp_loss"], atol=1e-9)
    for one, grad in zip(moving, found, strict=True):
        one.grad = grad
    check_gradients(field, "awp_")
    assert all(torch.equal(value, before[name]) for name, value in field.state_dict().items())


def test_the_schedule() -> None:
    wanted = V["layer_schedule"]
    steps, sigma = HYPER["steps"], HYPER["schedule_sigma"]
    layers = wanted.shape[1] - 1
    np.testing.assert_allclose(layer_schedule(steps, layers, sigma), wanted, atol=1e-12)
    field = FinerField(layers=layers, width=4, sigma=sigma, least_last=0.0)
    found = [[field.pace(role, step, steps) for role in field.rates] for step in range(steps)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_the_rotation_of_texts() -> None:
    texts, images = array("E_text"), array("E_image")
    rotation = local_procrustes(texts, images)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(len(rotation)), atol=1e-9)
    if "R" in V:
        np.testing.assert_allclose(rotation, V["R"], atol=1e-9)
    if "procrustes_fit" in V:  # of fewer pairs than dimensions, where only this is determined
        wanted = V["procrustes_fit"]
        fit = texts @ rotation.T
        np.testing.assert_allclose(fit if fit.shape == wanted.shape else fit.T, wanted, atol=1e-9)
    if "target_embedding" in V:
        np.testing.assert_allclose(F.normalize(rotation @ array("query"), dim=0), V["target_embedding"], atol=1e-9)


def test_what_the_bank_holds_near_the_target() -> None:
    found, blend = blended(array("blend_query"), array("E_image"), tau=HYPER["blend_temperature"])
    np.testing.assert_allclose(found, V["blend_weights"], atol=1e-9)
    np.testing.assert_allclose(blend, V["blend_target"], atol=1e-9)


def test_views_are_averaged_before_they_are_brought_to_length_1_and_the_loss() -> None:
    rows = array("aug_feats")
    np.testing.assert_allclose(mean_row(rows), V["aug_mean"], atol=1e-9)
    V.need("target_embedding", "total")
    aim = InversionAim(array("target_embedding"), array("blend_target"), beta=HYPER["beta"])
    np.testing.assert_allclose(aim(rows, Moment()), V["total"], atol=1e-9)
