"""Held-out pairs are embedded as the model itself embeds them, and pass locked towers once."""

from __future__ import annotations

import pytest
import torch

import tether
from tether.data import open_source
from tether.evaluate.embeddings import embed_source
from tether.models.composed.compose import compose
from tether.models.presets import create
from tether.models.save import save
from tether.workflows.held_out import HeldOut


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save(create("tiny", seed=0).eval(), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("most", [None, 7])
def test_rows_are_those_of_the_model(clip, most):
    source = open_source("scenes:rows=20,size=64")
    held_out = HeldOut(source)
    for model in (tether.load(clip), compose(image=clip, text=clip, join="linear", dim=24).eval()):
        found, expected = held_out.embedded(model, most=most), embed_source(model, source, limit=most)
        for name in ("image", "text", "text_to_image"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
        assert (found.keys, found.captions, found.labels) == (expected.keys, expected.captions, expected.labels)


def test_towers_see_the_pairs_once_whatever_the_maps(clip, monkeypatch):
    first, second = (compose(image=clip, text=clip, join=join).eval() for join in ("linear", "mlp"))
    calls = []
    for model in (first, second):
        monkeypatch.setattr(model.parts.image, "forward", _counted(model.parts.image.forward, calls))
    held_out = HeldOut(open_source("scenes:rows=20,size=64"))
    shapes = [held_out.embedded(model).image.shape for model in (first, second, first)]
    assert len(calls) == 1
    assert len(set(shapes)) == 1
    with torch.no_grad():
        next(second.parts.image.parameters()).add_(1)  # another tower
    held_out.embedded(second)
    assert len(calls) == 2


def _counted(forward, calls):
    def counted(*arguments):
        calls.append(1)
        return forward(*arguments)

    return counted
