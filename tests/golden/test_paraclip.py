"""ParaCLIP's loss and its filter of captions against the figures: terms and gradients, case by case."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.paraclip import keep_caption, paraclip_loss

V = load("paraclip")
PARTS = ("image", "text", "para1", "para2")
PREFIXES = sorted(name.removesuffix("image") for name in V.arrays if name.endswith("image"))
cases = pytest.mark.parametrize("prefix", PREFIXES)


def close(dtype: np.dtype) -> dict[str, float]:
    """The file's tolerance for this precision, both relative and absolute."""
    given = V.meta["tolerance"]
    value = given.get(str(dtype), given.get("float64")) if isinstance(given, dict) else given
    return value if isinstance(value, dict) else {"rtol": float(value), "atol": float(value)}


def weights(prefix: str) -> tuple[float, ...]:
    if f"{prefix}weights" in V:
        return tuple(V[f"{prefix}weights"].tolist())
    hyper: Any = V.meta.get("hyper", {})
    hyper = hyper.get(prefix.rstrip("_"), hyper) if isinstance(hyper, dict) else {}
    return tuple(float(value) for value in hyper.get("weights", (1.0, 1.0, 1.0)))


@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_terms_and_gradients(prefix: str, dtype: torch.dtype) -> None:
    rows = {part: torch.from_numpy(V[f"{prefix}{part}"].copy()).to(dtype).requires_grad_() for part in PARTS}
    if V[f"{prefix}image"].dtype == np.float32 and dtype == torch.float64:
        pytest.skip("figures in float32")
    limit = close(np.dtype(str(dtype).removeprefix("torch.")))
    scale = torch.tensor(float(V[f"{prefix}scale"] if f"{prefix}scale" in V else V["scale"]), dtype=dtype)
    found = paraclip_loss(*rows.values(), scale, weights=weights(prefix))
    compared = 0
    for name in ("l1", "l2", "l3", "total"):
        if f"{prefix}{name}" in V:
            np.testing.assert_allclose(getattr(found, name).item(), V[f"{prefix}{name}"], **limit)
            compared += 1
    found.total.backward()
    for part in PARTS[1:]:
        if f"{prefix}grad_{part}" in V:
            gradient = torch.zeros_like(rows[part]) if rows[part].grad is None else rows[part].grad
            np.testing.assert_allclose(gradient.numpy(), V[f"{prefix}grad_{part}"], **limit)
            compared += 1
    assert rows["image"].grad is None  # the picture's tower is frozen
    assert compared


def test_which_captions_are_paraphrased() -> None:
    V.need("filter_in", "filter_keep")
    given = V["filter_in"]
    captions = json.loads(given.item()) if given.ndim == 0 else given.tolist()
    assert [keep_caption(caption) for caption in captions] == V["filter_keep"].tolist()


def test_there_are_cases() -> None:
    assert PREFIXES
