"""Positions at other sizes against the figures of Long-CLIP, FIX-CLIP, CLIPA and EVA."""

from __future__ import annotations

import pytest
import torch
from loading import load
from torch import Tensor

from tether.models.towers.positions import resize_grid, resize_line, sincos_grid, stretch

V = load("positions")
CLOSE = V.meta["tolerance"]["float64"]


def at(name: str) -> Tensor:
    return torch.from_numpy(V[name])


@pytest.mark.parametrize("case", ["long-clip_pos_clip77", "long-clip_pos_small", "fix-clip_pos"])
def test_stretched_tables(case: str) -> None:
    found = stretch(at(f"{case}_old"), **V.meta["stretch"])
    torch.testing.assert_close(found, at(f"{case}_new"), rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("case", "old", "new"), [("a", 4, 7), ("b", 7, 4)])
def test_clipa(case: str, old: int, new: int) -> None:
    found = resize_grid(at(f"clipa_imgpos_{case}_old"), old=(old, old), new=(new, new))
    torch.testing.assert_close(found, at(f"clipa_imgpos_{case}_new"), rtol=0, atol=CLOSE)
    expected = at(f"clipa_txtpos_{case}_new")
    found = resize_line(at(f"clipa_txtpos_{case}_old"), length=len(expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("order", ["torch", "jax"])
@pytest.mark.parametrize(("case", "side", "width", "prefix"), [("a", 3, 16, 1), ("b", 4, 24, 0)])
def test_fixed_tables(order, case: str, side: int, width: int, prefix: int) -> None:
    expected = at(f"clipa_sincos_{order}_{case}").double()
    assert not expected[:prefix].any()
    close = V.meta["tolerance"]["float32" if order == "jax" else "float64"]
    found = sincos_grid((side, side), width=width, order=order)
    torch.testing.assert_close(found, expected[prefix:], rtol=0, atol=close)


def test_eva() -> None:
    table, grids = at("eva-clip-18b_pe_old"), {"old": (4, 4), "new": (6, 6), "antialias": False}
    torch.testing.assert_close(resize_grid(table, **grids), at("eva-clip-18b_pe_new"), rtol=0, atol=CLOSE)
    corners = resize_grid(table[0], align_corners=True, **grids)
    torch.testing.assert_close(corners, at("eva-clip-18b_pe_new_clip_style"), rtol=0, atol=CLOSE)
