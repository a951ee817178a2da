"""Degradations: ladders, draws, sizes, combinations, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.qualiclip import DEGRADATIONS, LADDERS, degrade
from tether.methods.qualiclip.kernels import disk, motion
from tether.methods.qualiclip.lab import lab_to_rgb, rgb_to_lab


def photo(height: int = 48, width: int = 64) -> Tensor:
    """Something with areas, edges and colours."""
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    waves = torch.stack([(9 * down + 3 * across).sin(), (20 * across).cos() * down, (6 * down * across).cos()])
    image = 0.5 + 0.35 * waves
    image[:, 10:30, 20:40] = torch.tensor([0.8, 0.3, 0.2])[:, None, None]
    return image.clamp(0, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", [kind for kind in LADDERS if kind != "quantization"])
def test_each_level_is_further_from_the_image(kind: str) -> None:
    image = photo(96, 128)
    away = [
        float((degrade(image, kind, level, seeded(), angle=20.0, sized_for=224) - image).square().mean())
        for level in range(1, 6)
    ]
    assert away == sorted(away)
    assert away[4] > away[0]


@pytest.mark.parametrize("kind", LADDERS)
def test_no_two_levels_are_one_image_on_few_pixels(kind: str) -> None:
    levels = [degrade(photo(32, 48), kind, level, seeded(), angle=20.0) for level in range(1, 6)]
    pixels = [(255 * one).round() for one in levels]
    assert not any(torch.equal(milder, worse) for milder, worse in itertools.pairwise(pixels))


def test_quantised_images_have_fewer_values() -> None:
    image = torch.rand(3, 48, 48, generator=seeded())
    assert [len(degrade(image, "quantization", level).unique()) for level in range(1, 6)] == [20, 16, 13, 10, 7]


@pytest.mark.parametrize("kind", list(DEGRADATIONS))
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (14, 14)])
def test_small_images_and_what_comes_out(kind: str, size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=seeded())
    before = image.clone()
    for sized_for in (None, 224):
        found = degrade(image, kind, 5, seeded(1), sized_for=sized_for)
        assert found.shape == image.shape
        assert found.dtype == image.dtype
        assert 0 <= found.min() <= found.max() <= 1
        assert torch.equal(found, degrade(image, kind, 5, seeded(1), sized_for=sized_for))
    assert torch.equal(image, before)  # nothing is changed in place


@pytest.mark.parametrize("kind", list(DEGRADATIONS))
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_one_colour(kind: str, value: float) -> None:
    found = degrade(torch.full((3, 24, 24), value), kind, 3, seeded())
    assert torch.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_blur_leaves_one_colour_alone() -> None:
    image = torch.full((3, 20, 20), 0.3)
    for kind in ("gaublur", "lensblur", "motionblur", "pixelate", "quantization"):
        torch.testing.assert_close(degrade(image, kind, 5, seeded()), image)


def test_draws_hang_on_the_generator() -> None:
    image = photo()
    first, again, other = (degrade(image, "whitenoise", 3, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(degrade(image, "motionblur", 4, seeded(1)), degrade(image, "motionblur", 4, seeded(2)))
    level = [degrade(image, "motionblur", 4, seeded(seed), angle=45.0) for seed in (1, 2)]
    assert torch.equal(*level)


def test_noise_has_the_variance_of_the_table() -> None:
    grey = torch.full((3, 128, 128), 0.5, dtype=torch.float64)
    for level, variance in enumerate(DEGRADATIONS["whitenoise"].strengths, start=1):
        assert float(degrade(grey, "whitenoise", level).var()) == pytest.approx(variance, rel=0.05)
    found = degrade(grey, "impulsenoise", 5)
    assert float((found != grey).double().mean()) == pytest.approx(0.03, rel=0.05)


def test_lengths_are_scaled_by_size() -> None:
    image = photo(64, 80)
    plain, scaled = degrade(image, "gaublur", 5), degrade(image, "gaublur", 5, sized_for=256)
    assert plain.std() < scaled.std() < image.std()
    assert torch.equal(degrade(image, "gaublur", 5, sized_for=64), plain)


def test_several_one_after_the_other() -> None:
    image = photo()
    both = degrade(image, ["darken", "jpeg"], 4)
    assert torch.equal(both, degrade(degrade(image, "darken", 4), "jpeg", 4))
    with pytest.raises(InputError, match="different groups, got darken, brighten"):
        degrade(image, ["darken", "brighten"], 1)


def test_no_ladders() -> None:
    assert set(DEGRADATIONS) - set(LADDERS) == {"meanshift", "pixelate", "lincontrchange", "jpeg2000"}
    assert torch.equal(degrade(photo(), "meanshift", 1), photo())
    assert len({one.group for one in DEGRADATIONS.values()}) == 7


def test_kernels() -> None:
    shares = disk(3.0) * math.pi * 9
    assert float(shares[3, 3]) == pytest.approx(1, rel=0.01)
    assert torch.equal(shares, shares.T)
    assert torch.allclose(motion(5, 0)[motion(5, 0) > 0], torch.full((5,), 0.2, dtype=torch.float64))
    assert torch.allclose(motion(9, 30), motion(9, 150).fliplr())
    assert torch.allclose(motion(9, 90), motion(9, 0).T)


def test_lab_and_back() -> None:
    image = photo().double()
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(image)), image, rtol=0, atol=1e-3)
    white = rgb_to_lab(torch.ones(3, 1, 1, dtype=torch.float64)).flatten()
    torch.testing.assert_close(white, torch.tensor([100.0, 0, 0], dtype=torch.float64), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("image", "kind", "level", "message"),
    [
        (torch.zeros(3, 8, 8), "blur", 1, "no degradation 'blur'"),
        (torch.zeros(3, 8, 8), [], 1, "got none"),
        (torch.zeros(3, 8, 8), "jpeg", 0, "whole number from 1 to 5, got 0"),
        (torch.zeros(3, 8, 8), "jpeg", 6, "from 1 to 5"),
        (torch.zeros(3, 8, 8), "jpeg", True, "from 1 to 5"),
        (torch.zeros(1, 8, 8), "jpeg", 1, "floats \\(3, h, w\\)"),
        (torch.zeros(3, 0, 8), "jpeg", 1, "floats"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "jpeg", 1, "torch.uint8"),
        (torch.full((3, 8, 8), 255.0), "jpeg", 1, "values in \\[0, 1\\]"),
        (torch.full((3, 8, 8), float("nan")), "jpeg", 1, "values in \\[0, 1\\]"),
    ],
)
def test_refused(image: Tensor, kind: str, level: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        degrade(image, kind, level)
