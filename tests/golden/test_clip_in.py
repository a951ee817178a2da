"""The symmetric hard-negative loss and rotary positions against the figures: every case and tolerance from the file."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load

from tether.methods.clip_in import symmetric_negative_loss
from tether.methods.clip_in.rotary import RotaryEmbedding

V = load("clip-in")
CLOSE = V.meta["tolerance"]
ROWS = ("img", "txt", "img_edit", "txt_edit")
LOSSES = [found.groups() for key in sorted(V.arrays) if (found := re.fullmatch(r"(.+)_(own|batch|pair)_loss", key))]
TURNS = sorted(key.removesuffix("_out") for key in V.arrays if key.endswith("_out"))


def test_the_file_has_cases() -> None:
    assert LOSSES or TURNS


@pytest.mark.filterwarnings("ignore::tether.losses.EqualNegativesWarning")
@pytest.mark.parametrize(("case", "scope"), LOSSES, ids=["-".join(pair) for pair in LOSSES])
def test_loss_and_gradients(case: str, scope: str) -> None:
    leaves = {row: torch.from_numpy(V[f"{case}_{row}"].copy()).requires_grad_() for row in ROWS}
    scale = torch.from_numpy(np.array(V[f"{case}_scale"])).requires_grad_()
    terms = symmetric_negative_loss(*leaves.values(), scale, scope=scope)  # pyrefly: ignore[bad-argument-type]
    np.testing.assert_allclose(terms.total.item(), V[f"{case}_{scope}_loss"], **CLOSE)
    terms.total.backward()
    for row, leaf in [*leaves.items(), ("scale", scale)]:
        if f"{case}_{scope}_grad_{row}" in V:
            assert leaf.grad is not None
            np.testing.assert_allclose(leaf.grad.numpy(), V[f"{case}_{scope}_grad_{row}"], **CLOSE)


@pytest.mark.parametrize("case", TURNS)
def test_rotary_positions(case: str) -> None:
    x = torch.from_numpy(V[f"{case}_x"].copy())
    position = torch.from_numpy(V[f"{case}_pos"].copy()) if f"{case}_pos" in V else None
    turn = RotaryEmbedding(x.shape[-1], base=float(V[f"{case}_base"]))
    np.testing.assert_allclose(turn(x, position=position).numpy(), V[f"{case}_out"], **CLOSE)
