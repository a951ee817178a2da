"""Changes of colours and sharpness: what they do to pixels."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.data.augment import AUGMENTATIONS

DRAWS = np.random.default_rng(0).integers(0, 2**63, 400).astype(np.uint64)


def changed(name: str, pixels: torch.Tensor, **settings: Any) -> torch.Tensor:
    return AUGMENTATIONS[name](**settings)(pixels.expand(400, -1, -1, -1).contiguous(), draws=DRAWS)


def colour(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(1, 3, 1, 1)


def test_grey_is_the_luma_and_solarise_a_negative_of_what_is_bright():
    assert changed("grey", colour(255, 0, 0))[0].flatten().tolist() == [76, 76, 76]
    assert changed("solarise", colour(127, 128, 255))[0].flatten().tolist() == [127, 127, 0]
    assert changed("solarise", colour(9, 10, 11), threshold=10)[0].flatten().tolist() == [9, 245, 244]


def test_hue_turns_colours_and_leaves_greys():
    assert (changed("hue", colour(90, 90, 90), turn=0.5) == 90).all()
    found = changed("hue", colour(160, 100, 100), turn=0.1)[:, :, 0, 0]
    hues = torch.tensor([colorsys.rgb_to_hsv(*(rgb / 255).tolist())[0] for rgb in found])
    signed = torch.where(hues > 0.5, hues - 1, hues)
    assert signed.min() < -0.08
    assert signed.max() > 0.08
    assert signed.abs().max() < 0.12
    assert (found.float().sum(1) - 360).abs().max() <= 3


def test_blur_spreads_by_its_width_and_keeps_what_there_is():
    spot = torch.zeros(1, 3, 41, 41, dtype=torch.uint8)
    spot[:, :, 18:23, 18:23] = 250
    found = changed("blur", spot, sigma=(2.0, 2.0))[0, 0].double()
    assert found.sum() == pytest.approx(25 * 250, rel=0.03)
    place = torch.arange(41) - 20.0
    variance = (found.sum(1) * place.square()).sum() / found.sum()
    assert variance.item() == pytest.approx(2.0**2 + 2.0, rel=0.05)  # of the Gaussian and of five pixels
    assert (changed("blur", torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)) == 77).all()


def test_sometimes_is_as_often_as_it_says():
    out = changed("sometimes", colour(255, 0, 0), part="grey", chance=0.2)
    assert (out[:, 0, 0, 0] == 76).float().mean().item() == pytest.approx(0.2, abs=0.06)
    part = AUGMENTATIONS["sometimes"](part="flip", chance=0.5)
    flipped = sum(one.flipped for one in part.placements(DRAWS, size=(4, 4)))
    assert 60 < flipped < 140  # half of half


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("blur", {"sigma": (2.0, 1.0)}, "the smaller number first"),
        ("blur", {"sigma": (0.0, 1.0)}, "sigma"),
        ("hue", {"turn": 0.6}, "turn"),
        ("solarise", {"threshold": 256}, "threshold"),
        ("sometimes", {"part": "gray"}, "did you mean 'grey'"),
        ("sometimes", {"chance": 1.1}, "chance"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, says):
    with pytest.raises(InputError, match=says):
        AUGMENTATIONS[name](**settings)
