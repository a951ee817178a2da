"""Maps of how unusual places are: size, peak, colours, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError


def some(*, equal: bool = False) -> AnomalyMap:
    values = np.full((3, 4), 0.25, dtype=np.float32)
    if not equal:
        values[2, 1] = 0.75
    return AnomalyMap(0.75, values, size=(30, 80), name="tile <b>")


def test_pixels_are_those_of_bilinear_enlarging():
    expected = F.interpolate(torch.from_numpy(some().values)[None, None], (30, 80), mode="bilinear")[0, 0]
    np.testing.assert_allclose(some().pixels(), expected.numpy(), rtol=1e-6)
    assert some().peak() == (30, 25)
    assert repr(some()) == "AnomalyMap(tile <b>, 80 x 30: score 0.7500, peak at 30, 25)"


def test_colours_follow_the_span():
    own, shared = some().heat(), some().heat(span=(0.0, 1.0))
    assert own.shape == (30, 80, 4)
    assert own[25, 30, 3] > 240 > shared[25, 30, 3]
    assert own[0, 79, 3] == 0 < shared[0, 79, 3]
    assert some(equal=True).heat()[..., 3].max() == 0  # no peak where there is none
    assert some().to_image(longest=40).size == (40, 15)
    assert some().to_image(longest=400).size == (80, 30)


def test_an_image_under_its_map():
    image = np.full((30, 80, 3), 100, dtype=np.uint8)
    found = some().overlay(image)
    assert (found[0, 79] == 100).all()
    assert found[25, 30, 0] > 200
    np.testing.assert_array_equal(some().overlay(image, strength=0.0), image)
    with pytest.raises(InputError, match=r"image: expected uint8 \(30, 80, 3\), got uint8 \(30, 81, 3\)"):
        some().overlay(np.zeros((30, 81, 3), dtype=np.uint8))


def test_a_notebook_shows_it():
    shown = some()._repr_html_()
    assert "data:image/png;base64," in shown
    assert "tile &lt;b&gt;" in shown


@pytest.mark.parametrize(
    ("score", "values", "size", "said"),
    [
        (1.5, np.zeros((2, 2), np.float32), (4, 4), r"score: expected 0 to 1, got 1\.5"),
        (0.5, np.full((2, 2), np.nan, np.float32), (4, 4), "values: expected 0 to 1, got nan"),
        (0.5, np.zeros((2, 2)), (4, 4), r"values: expected \(r, c\) float32, got float64 \(2, 2\)"),
        (0.5, np.zeros((0, 2), np.float32), (4, 4), r"values: expected \(r, c\) float32, got float32 \(0, 2\)"),
        (0.5, np.zeros((2, 2), np.float32), (0, 4), "size: expected a height and a width"),
    ],
)
def test_what_is_no_map_is_refused(score, values, size, said):
    with pytest.raises(InputError, match=said):
        AnomalyMap(score, values, size=size)
