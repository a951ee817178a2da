"""Boxes painted over with what lies around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.core.errors import InputError
from tether.data.inpaint import FILLS, boxes_within, fill_boxes

SIZE = (9, 12)


def ramp() -> torch.Tensor:
    """Grey values that rise along both sides, so that they are a harmonic function."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return (10 * rows + 7 * columns).to(torch.uint8).expand(3, *SIZE).clone()


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_outside_the_boxes_changes(fill):
    pixels = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    boxes = np.array([[2, 1, 5, 4], [7, 5, 40, 40]])
    filled = fill_boxes(pixels, boxes, fill=fill)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[1:4, 2:5] = inside[5:, 7:] = True
    assert torch.equal(pixels, before)
    assert torch.equal(filled[:, ~inside], before[:, ~inside])
    assert (filled[:, inside] != before[:, inside]).any()


def test_a_smooth_fill_continues_a_slope_exactly():
    assert torch.equal(fill_boxes(ramp(), np.array([[3, 2, 8, 7]])), ramp())


def test_a_border_fill_is_the_mean_of_the_ring_without_other_boxes():
    pixels = torch.full((3, *SIZE), 40, dtype=torch.uint8)
    pixels[:, 3:5, 3:6] = 255  # the text
    pixels[:, 3:5, 6:8] = 255  # more of it, right beside
    pixels[:, 2, 3:6] = 80
    filled = fill_boxes(pixels, np.array([[3, 3, 6, 5], [6, 3, 8, 5]]), fill="border")
    ring = [80] * 3 + [40] * 9  # 3 above, 2 corners, 2 at the left, 5 below; what the other box covers does not count
    assert filled[0, 3, 3] == round(np.mean(ring))


@pytest.mark.parametrize("fill", FILLS)
def test_a_flat_picture_stays_flat_and_a_covered_one_becomes_its_mean(fill):
    flat = torch.full((3, *SIZE), 77, dtype=torch.uint8)
    for box in ([0, 0, 12, 3], [-4, -4, 5, 50], [0, 0, 12, 9]):
        assert torch.equal(fill_boxes(flat, np.array([box]), fill=fill), flat)
    whole = fill_boxes(ramp(), np.array([[0, 0, 12, 9]]), fill=fill)
    assert torch.equal(whole, torch.full_like(whole, round(float(ramp().double().mean()))))


@given(st.lists(st.tuples(*[st.integers(-20, 20)] * 4), max_size=5))
def test_boxes_are_cut_to_the_picture(boxes):
    ordered = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]).reshape(-1, 4)
    inside = boxes_within(ordered, height=SIZE[0], width=SIZE[1])
    assert (inside >= 0).all()
    assert (inside[:, 2:] <= SIZE[::-1]).all()
    assert (inside[:, 2:] > inside[:, :2]).all()
    covered = [box for box in ordered.tolist() if box[0] < min(box[2], 12) and box[1] < min(box[3], 9)]
    assert len(inside) == sum(box[2] > 0 and box[3] > 0 for box in covered)


def test_wrong_input_is_refused():
    for boxes in ([[0, 0, 1]], [[0, 0, np.nan, 1]], [["a"] * 4], [0, 0, 1, 1]):
        with pytest.raises(InputError, match="boxes"):
            boxes_within(boxes, height=5, width=5)
    with pytest.raises(InputError, match="ends before it begins"):
        boxes_within([[3, 0, 1, 1]], height=5, width=5)
    with pytest.raises(InputError, match="uint8"):
        fill_boxes(ramp().float(), np.array([[0, 0, 1, 1]]))
    assert torch.equal(fill_boxes(ramp(), np.zeros((0, 4))), ramp())
