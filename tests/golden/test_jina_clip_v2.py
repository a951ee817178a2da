"""Matryoshka's loss against the figures: each width, the sums, their gradients, and the prefixes themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import MatryoshkaLoss, clip_loss, matryoshka_loss, truncate

V = load("jina-clip-v2")
DTYPES = [torch.float64, torch.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def close(dtype: torch.dtype) -> dict[str, float]:
    value = float(V.meta["tolerance"][str(dtype).removeprefix("torch.")])
    return {"rtol": value, "atol": value}


def rows(name: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(V[name].copy()).to(dtype).requires_grad_()


def settings() -> dict[str, Any]:
    return {"dims": V["dims"].tolist(), "weights": V["weights"].tolist()}


def inner() -> partial[Tensor]:
    return partial(clip_loss, logit_scale=1 / float(V["tau"]), directions="sum")


@dtypes
def test_every_width_the_sum_and_its_gradient(dtype: torch.dtype) -> None:
    x, y = rows("x", dtype), rows("y", dtype)
    found = matryoshka_loss(inner(), x, y, **settings())
    np.testing.assert_allclose(found.each.detach().numpy(), V["per_dim"], **close(dtype))
    np.testing.assert_allclose(found.total.item(), V["total"], **close(dtype))
    found.total.backward()
    np.testing.assert_allclose(x.grad.numpy(), V["grad_x"], **close(dtype))
    np.testing.assert_allclose(y.grad.numpy(), V["grad_y"], **close(dtype))


@dtypes
def test_hard_negatives_are_cut_alike(dtype: torch.dtype) -> None:
    x, y, negatives = rows("x", dtype), rows("y", dtype), rows("negatives", dtype)
    found = matryoshka_loss(inner(), x, y, extra_txt=negatives.flatten(0, -2), **settings())
    np.testing.assert_allclose(found.each.detach().numpy(), V["per_dim_plus"], **close(dtype))
    np.testing.assert_allclose(found.total.item(), V["total_plus"], **close(dtype))
    found.total.backward()
    for name, leaf in (("x", x), ("y", y), ("negatives", negatives)):
        np.testing.assert_allclose(leaf.grad.numpy(), V[f"grad3_{name}"], **close(dtype))


@dtypes
def test_the_objective_of_a_recipe_gives_the_same(dtype: torch.dtype) -> None:
    x, y = rows("x", dtype), rows("y", dtype)
    objective = MatryoshkaLoss(of={"name": "clip", "directions": "sum"}, **settings())
    out = Encoded(Features(x), Features(y), torch.tensor(1 / float(V["tau"]), dtype=dtype))
    loss = objective(out, Batch(torch.zeros(len(x), 3, 1, 1), torch.arange(len(x))[:, None]), gather=LOCAL)
    np.testing.assert_allclose(loss.total.item(), V["total"], **close(dtype))
    for width, wanted in zip(V["dims"].tolist(), V["per_dim"], strict=True):
        np.testing.assert_allclose(loss.terms[f"width_{width}"].item(), wanted, **close(dtype))
    loss.total.backward()
    np.testing.assert_allclose(x.grad.numpy(), V["grad_x"], **close(dtype))


@pytest.mark.parametrize("name", sorted(name for name in V.arrays if name.startswith("trunc_")))
@pytest.mark.parametrize("side", ["raw", "unit"])
def test_prefixes(name: str, side: str) -> None:
    x = torch.from_numpy(V["x"].copy())
    if side == "unit":
        x = x / x.norm(dim=1, keepdim=True)
    found = truncate(x, dim=int(name.removeprefix("trunc_")))
    np.testing.assert_allclose(found.numpy(), V[name], **close(torch.float64))
