from __future__ import annotations

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.methods.troll.kl_projection import kl_divergence, project_kl
from tether.methods.troll.loss import TROLLLoss
from tether.methods.troll.sparse_policy import SparseDist

V = load("troll")
HYPER = V.meta["hyper"]
CLOSE = dict(V.meta["tolerance"])
SETTINGS = {"k": HYPER["K"], "delta": HYPER["delta"], "q_min": HYPER["q_min"]}
has_sparse = pytest.mark.skipif("sparse.t" not in V, reason="no sparse figures in this file")


def tensor(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def compare(name: str, got: Tensor) -> None:
    np.testing.assert_allclose(got.detach().numpy(), V[name], **CLOSE, err_msg=name)


def test_projection() -> None:
    new, old = (tensor(f"logits_{name}").log_softmax(-1) for name in ("new", "old"))
    projected, t = project_kl(new, old, HYPER["eps"])
    compare("t", t)
    compare("eta", 1 / t - 1)
    compare("proj_logp", projected)
    compare("kl_before", kl_divergence(new, old))
    compare("kl_after", kl_divergence(projected, old))
    assert np.array_equal(t.numpy() < 1, V["active"])


def test_loss_and_gradient() -> None:
    logits = tensor("logits_new").requires_grad_()
    old, tokens, mask = tensor("logits_old").log_softmax(-1), tensor("tokens"), tensor("mask")
    objective = TROLLLoss(eps=HYPER["eps"], alpha=HYPER["alpha"])
    terms = objective.per_token(logits, old, tokens)
    compare("ratio", terms.ratio)
    compare("reg", terms.regression)
    compare("t", terms.t)
    loss = objective(logits, old, tokens, tensor("adv"), mask)
    compare("loss", loss.total)
    loss.total.backward()
    compare("grad", logits.grad)
    inside = V["mask"].astype(bool)
    np.testing.assert_allclose(loss.terms["projected"].item(), V["active"][inside].mean(), **CLOSE)
    np.testing.assert_allclose(loss.terms["kl_before"].item(), V["kl_before"][inside].mean(), **CLOSE)


@has_sparse
@pytest.mark.parametrize("side", ["old", "new"])
def test_sparse_distributions(side: str) -> None:
    sparse = SparseDist.from_logits(tensor(f"logits_{side}"), tensor("tokens"), **SETTINGS)
    kept = np.zeros_like(V[f"sparse.keep_{side}"])
    for row, ids in zip(kept.reshape(-1, kept.shape[-1]), sparse.ids.flatten(0, -2), strict=True):
        row[ids[ids < sparse.vocabulary].numpy()] = True
    assert np.array_equal(kept, V[f"sparse.keep_{side}"])
    compare(f"sparse.logp_{side}", sparse.dense())


@has_sparse
def test_sparse_projection() -> None:
    tokens = tensor("tokens")
    old, new = (SparseDist.from_logits(tensor(f"logits_{side}"), tokens, **SETTINGS) for side in ("old", "new"))
    whole = project_kl(new.dense(), old.dense(), HYPER["eps"])
    compare("sparse.t", whole.t)
    compare("sparse.proj_logp", whole.logp)
    union = project_kl(*new.beside(old), HYPER["eps"])
    compare("sparse.t", union.t)
    sampled = np.take_along_axis(V["sparse.proj_logp"], V["tokens"][..., None], -1)[..., 0]
    np.testing.assert_allclose(union.logp[..., 0].numpy(), sampled, **CLOSE)
    terms = TROLLLoss(eps=HYPER["eps"]).per_token(tensor("logits_new"), old, tokens)
    compare("sparse.t", terms.t)
    before = np.take_along_axis(V["sparse.logp_old"], V["tokens"][..., None], -1)[..., 0]
    np.testing.assert_allclose(terms.ratio.numpy(), np.exp(sampled - before), **CLOSE)
