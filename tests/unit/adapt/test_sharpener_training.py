"""A sharpener learns from images alone, and its encoder rests."""

from __future__ import annotations

import itertools

import pytest
import torch

from tether.adapt.distill import consistency, draw_views, fit_statistics_, train_sharpener_
from tether.core.errors import InputError
from tether.models import create
from tether.models.upsample import Sharpener, SimpleDownsampler


def images(count: int = 4) -> torch.Tensor:
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="nearest")


def test_it_learns() -> None:
    model = create("tiny").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sharpener = Sharpener(64, grid=(4, 4), generator=torch.Generator().manual_seed(0))
    fit_statistics_(sharpener, model, [images()[..., ::2, ::2]])
    low, _ = sharpener(model, images(), denormalize=False)
    assert low.mean().abs() < 1
    down, told = SimpleDownsampler(kernel=3), list[float]()

    def error() -> float:
        with torch.no_grad():
            views = draw_views(sharpener, model, images(), generator=torch.Generator().manual_seed(1), zoom=0.1)
            assert views.target.shape == (4, 64, 4, 4)
            high = sharpener(model, images(), denormalize=False)[1]
            return float(consistency(high, views, downsampler=down, factor=2))

    first = error()
    given = train_sharpener_(
        sharpener, model, itertools.repeat(images()), steps=25, views=1, learning_rate=0.01, warmup=1,
        downsampler=down, on_step=lambda _, loss: told.append(loss), zoom=0.1,
    )  # fmt: skip
    assert given is down
    assert len(told) == 25
    assert error() < 0.95 * first
    assert sharpener.bias.bias.abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same() -> None:
    model, made = create("tiny").eval(), []
    for _ in range(2):
        sharpener = Sharpener(64, grid=(4, 4), generator=torch.Generator().manual_seed(0))
        train_sharpener_(sharpener, model, itertools.repeat(images(1)), steps=2, views=1, variation=0.1)
        made.append(sharpener.block.qkv.weight)
    assert torch.equal(*made)


def test_bad_input() -> None:
    model, sharpener = create("tiny").eval(), Sharpener(64, grid=(4, 4))
    with pytest.raises(InputError, match="expected some for 2 steps, got 1"):
        train_sharpener_(sharpener, model, iter([images(1)]), steps=2, views=1)
    with pytest.raises(InputError, match="a batch at least"):
        fit_statistics_(sharpener, model, [])
