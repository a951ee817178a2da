"""Error norms, truncated losses and gradients against the released criterion: all cases from the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.ent import ENTLoss, error_norm

V = load("ent")
CLOSE = V.meta["tolerance"]
PAD = int(V.meta["pad_index"])
CASES = list(enumerate(V.meta["cases"]))


def leaf() -> torch.Tensor:
    return torch.from_numpy(V["logits"].copy()).requires_grad_()


def targets() -> torch.Tensor:
    return torch.from_numpy(V["targets"].copy())


def limit(case: dict[str, Any]) -> dict[str, float]:
    """The file writes both; a threshold, where there is one, is what counts."""
    name = "fraction" if case["threshold"] is None else "threshold"
    return {name: float(case[name])}


def test_error_norm() -> None:
    got = error_norm(leaf(), targets(), ignore_index=PAD)
    assert not got.requires_grad
    np.testing.assert_allclose(got.numpy(), V["el2n"], **CLOSE)


@pytest.mark.parametrize(("place", "case"), CASES, ids=[f"c{place}" for place, _ in CASES])
def test_truncated_loss(place: int, case: dict[str, Any]) -> None:
    logits = leaf()
    loss = ENTLoss(**limit(case), label_smoothing=float(case["label_smoothing"]), normalize="sum", ignore_index=PAD)
    got = loss(logits, targets(), step=0)
    (grad,) = torch.autograd.grad(got.loss, logits)
    np.testing.assert_array_equal(got.dropped.numpy(), V[f"c{place}.truncated"])
    np.testing.assert_allclose(got.loss.item(), V[f"c{place}.loss_sum"], **CLOSE)
    np.testing.assert_allclose(got.nll.item(), V[f"c{place}.nll_sum"], **CLOSE)
    np.testing.assert_allclose(grad.numpy(), V[f"c{place}.grad"], **CLOSE)
    assert int(got.dropped.sum()) == int(V[f"c{place}.truncated"].sum())
