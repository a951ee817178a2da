"""SANER against an independent transcription: the layer, every term of its loss, its gradients, and MaxSkew."""

import re

import numpy as np
import pytest
import torch
from loading import load

from tether.evaluate.groups import max_skew
from tether.methods.saner import SanerLayer, group_cosines, saner_loss

VECTORS = load("saner")
HYPER = VECTORS.meta["hyper"]
RTOL = float(re.search(r"rtol\s*([0-9.e+-]+)", str(VECTORS.meta["tolerance"])).group(1))
SKEWS = sorted(int(m.group(1)) for name in VECTORS.arrays if (m := re.fullmatch(r"maxskew_at_(\d+)", name)))


def tensor(name):
    return torch.tensor(VECTORS[name])


def close(actual, expected):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=1e-14)


def loss(z, **changes):
    settings = {
        "h": tensor("h"),
        "attributes": tensor("attr_feats"),
        "image": tensor("image_feats"),
        "logit_scale": HYPER["logit_scale"],
        "weights": (HYPER["alpha"], HYPER["beta"], HYPER["gamma"]),
    }
    return saner_loss(z, **settings | changes)


def test_layer():
    VECTORS.need("h", "W1", "b1", "W2", "b2", "z")
    hidden, dim = VECTORS["W1"].shape
    layer = SanerLayer(dim, hidden=hidden).double()
    names = {"first.weight": "W1", "first.bias": "b1", "last.weight": "W2", "last.bias": "b2"}
    layer.load_state_dict({name: tensor(array) for name, array in names.items()})
    close(layer(tensor("h")), VECTORS["z"])


def test_cosines():
    VECTORS.need("z", "attr_feats", "cos")
    close(group_cosines(tensor("z"), attributes=tensor("attr_feats")), VECTORS["cos"])


def test_terms():
    VECTORS.need("h", "z", "attr_feats", "image_feats")
    found, sample = loss(tensor("z")), loss(tensor("z"), spread="sample")
    terms = {
        "loss_deb": found.debias,
        "loss_recon": found.reconstruction,
        "loss_cont": found.contrast,
        "loss_total": found.total,
        "loss_deb_unbiased_std": sample.debias,
    }
    given = [name for name in terms if name in VECTORS]
    assert given
    for name in given:
        close(terms[name], VECTORS[name])


def test_gradient():
    VECTORS.need("h", "z", "attr_feats", "image_feats")
    z = tensor("z").requires_grad_()
    loss(z).total.backward()
    step = 1e-6
    for place in [(0, 0), (len(z) - 1, z.shape[1] - 1)]:
        moved = [tensor("z"), tensor("z")]
        moved[0][place] += step
        moved[1][place] -= step
        slope = (loss(moved[0]).total - loss(moved[1]).total) / (2 * step)
        np.testing.assert_allclose(float(z.grad[place]), float(slope), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("k", SKEWS)
def test_max_skew(k):
    VECTORS.need("skew_scores", "skew_groups", "skew_ref")
    found = max_skew(tensor("skew_scores"), groups=tensor("skew_groups"), k=k, reference=tensor("skew_ref"))
    close(found.each, VECTORS[f"maxskew_at_{k}"])
    if k == HYPER["k"] and "skew_top_fraction" in VECTORS:
        close(found.top_shares[0], VECTORS["skew_top_fraction"])


def test_there_are_skews():
    assert SKEWS
