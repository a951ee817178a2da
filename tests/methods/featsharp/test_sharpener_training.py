"""The recipe sharpen: a sharpener learns from images alone, its head's file, and masks with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from memory_rows import squares, without_words
from tether.adaptation.heads import load_head
from tether.adaptation.recipes import Given, play
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.featsharp import Sharpener, SharpenerHead, SharpenRecipe, SimpleDownsampler
from tether.methods.featsharp.distill import SharpenStep, consistency, draw_views, fit_statistics_
from tether.models import create

SETTINGS = {"name": "sharpen", "steps": 3, "views": 1, "batch_size": 2, "kernel": 3, "window": 3, "statistics": 12}


def test_a_head_is_kept_and_makes_masks(tmp_path: Path) -> None:
    model = create("tiny", seed=1).eval()
    recipe = {**SETTINGS, "learning_rate": 0.1, "variation": 0.1, "downsampler": "simple"}
    done = tether.adapt(model, without_words(squares(12)), recipe=recipe, out=tmp_path / "head")
    head = load_head(tmp_path / "head", model=model)
    assert isinstance(head, SharpenerHead)
    assert f"--sharpen {tmp_path / 'head'} --classes NAMES" in "".join(done.report.next)
    found = tether.segment("scenes:rows=2,size=64", "circle,star", model=model, sharpen=tmp_path / "head")
    fresh = SharpenerHead(Sharpener(64, grid=(4, 4))).bind_(model)
    plain = tether.segment("scenes:rows=2,size=64", "circle,star", model=model, sharpen=fresh)
    assert (found.method, plain.method) == ("sharp", "sharp")
    assert not np.allclose(found.masks[found.keys[0]].scores, plain.masks[found.keys[0]].scores)
    assert head.logits(head.sharpener.mean[None]).tolist() == [[0.0]]


def test_views_are_foretold_better() -> None:
    model, rows = create("tiny").eval(), squares(24)
    recipe = SharpenRecipe(
        steps=25, views=1, batch_size=4, learning_rate=0.01, warmup=1, downsampler="simple", kernel=3, statistics=24
    )
    tuning = recipe.tuning(model, Given("images", rows, 24))
    sharpener, downsampler = tuning.modules.values()
    assert isinstance(sharpener, Sharpener)
    assert isinstance(downsampler, SimpleDownsampler)
    images = model.image_spec.normalise(next(tuning.batches).image)
    assert images.shape == (4, 3, 64, 64)
    low, _ = sharpener(model, images, denormalize=False)
    assert low.mean().abs() < 1

    def error() -> float:
        with torch.no_grad():
            views = draw_views(sharpener, model, images, generator=torch.Generator().manual_seed(1))
            assert views.target.shape == (4, 64, 4, 4)
            high = sharpener(model, images, denormalize=False)[1]
            return float(consistency(high, views, downsampler=downsampler, factor=2))

    first = error()
    play(tuning, model)
    assert error() < 0.95 * first
    assert sharpener.bias.bias.abs().max() > 0


def test_bad_input() -> None:
    model, sharpener = create("tiny").eval(), Sharpener(64, grid=(4, 4))
    with pytest.raises(InputError, match="a batch at least"):
        fit_statistics_(sharpener, model, [])
    with pytest.raises(InputError, match="views"):
        SharpenStep(views=0)
    with pytest.raises(InputError, match="odd side"):
        tether.adapt(model, squares(12), recipe={**SETTINGS, "kernel": 4})
    torch.nn.init.constant_(sharpener.bias.bias, torch.inf)
    with pytest.raises(InputError, match="finite"):
        SharpenerHead(sharpener)


def test_a_width_without_a_hadamard_matrix_is_refused() -> None:
    model = create("tiny", dim=38).eval()
    with pytest.raises(UnsupportedModelError, match=r"no Hadamard matrix of 38 channels .* the next size is 40"):
        tether.adapt(model, squares(12), recipe=SETTINGS)
