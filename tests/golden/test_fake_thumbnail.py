"""The released network and its sequence of calls against ``tether.methods.fake_thumbnail``."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.fake_thumbnail import PairClassifier, PairNetwork, pair_incongruity

V = load("fake-thumbnail")
HYPER = V.meta["hyper"]
TOLERANCE = float((re.search(r"\d[\d.]*e-?\d+", V.meta.get("tolerance", "")) or ["1e-9"])[0])
CLOSE = {"rtol": TOLERANCE, "atol": TOLERANCE}
LAYERS = ("bilayer", "linear1", "linear2")
STEPS = int(HYPER["steps"])


@pytest.fixture(scope="module")
def network() -> PairNetwork:
    V.need(*(f"{layer}_{part}" for layer in LAYERS for part in ("weight", "bias")))
    units, dim, _ = V["bilayer_weight"].shape
    made = PairNetwork(dim, hidden=units, bilinear="full").double()
    state = {
        f"{layer}.{part}": torch.from_numpy(V[f"{layer}_{part}"].astype(np.float64))
        for layer in LAYERS
        for part in ("weight", "bias")
    }
    made.load_state_dict(state)
    return made


def trained(network: PairNetwork, steps: int) -> PairClassifier:
    """The rows of the file come again in every step, in the order given."""
    batch = len(V["label"])
    classifier = PairClassifier(
        network.dim,
        hidden=network.hidden,
        bilinear="full",
        lr=float(HYPER["lr"]),
        weight_decay=float(HYPER["weight_decay"]),
        batch_size=batch,
        max_grad_norm=float(HYPER.get("max_grad_norm", 1.0)),
        epochs=min(steps, 1),
    ).start_at(network)
    text, image = (np.tile(V[name], (max(steps, 1), 1)) for name in ("text", "image"))
    return classifier.fit(text, image=image, y=np.tile(V["label"], max(steps, 1)))


def test_cosine():
    V.need("cosine")
    np.testing.assert_allclose(1 - pair_incongruity(V["image"], texts=V["text"]), V["cosine"], **CLOSE)


def test_the_forward_is_a_bilinear_form_and_two_layers(network):
    V.need("logits")
    with torch.no_grad():
        logits = network(torch.from_numpy(V["text"]), torch.from_numpy(V["image"]))
    np.testing.assert_allclose(logits.numpy(), V["logits"][0], **CLOSE)


@pytest.mark.parametrize("steps", range(STEPS))
def test_logits_before_each_step(network, steps):
    V.need("logits")
    found = trained(network, steps).logits(V["text"], image=V["image"])
    np.testing.assert_allclose(found, V["logits"][steps], **CLOSE)


def test_losses_and_gradient_norms(network):
    history = trained(network, STEPS).history
    assert history is not None
    if "losses" in V:
        np.testing.assert_allclose(history.losses, V["losses"], **CLOSE)
    if "grad_norm" in V:
        np.testing.assert_allclose(history.grad_norms, V["grad_norm"], **CLOSE)


def test_probabilities_and_report_at_the_end(network):
    last = trained(network, STEPS)
    if "final_prob" in V:
        np.testing.assert_allclose(last.predict_proba(V["text"], image=V["image"])[:, 1], V["final_prob"], **CLOSE)
    report = last.report(V["text"], image=V["image"], y=V["label"])
    for name in ("accuracy", "auroc", "cosine_auroc"):
        if name in V.meta:
            np.testing.assert_allclose(getattr(report, name), V.meta[name], **CLOSE)
