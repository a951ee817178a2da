"""Pairs are embedded as the model itself embeds them, and pass towers whose rows are kept once."""

from __future__ import annotations

import pytest
import torch

import tether
from tether.data import open_source
from tether.evaluate.embeddings import embed_source
from tether.models.compose import compose
from tether.models.composed.cached import CachedEncoder
from tether.models.presets import create
from tether.models.save import save

SOURCE = "scenes:rows=20,size=64"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save(create("tiny", seed=0).eval(), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("limit", [None, 7])
def test_rows_are_those_of_the_model(clip, limit):
    source = open_source(SOURCE)
    for model in (tether.load(clip), compose(image=clip, text=clip, join="linear", dim=24).eval()):
        found, expected = (embed_source(one, source, limit=limit) for one in (CachedEncoder(model), model))
        for name in ("image", "text", "text_to_image"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
        assert (found.keys, found.captions, found.labels) == (expected.keys, expected.captions, expected.labels)


def test_towers_see_the_pairs_once_whatever_the_maps(clip):
    first, second = (compose(image=clip, text=clip, join=join).eval() for join in ("linear", "mlp"))

    def computed(model):
        kept = CachedEncoder(model)
        embed_source(kept, open_source(SOURCE))
        return kept.computed["image"]

    assert [computed(model) for model in (first, second, first)] == [20, 0, 0]
    with torch.no_grad():
        next(second.parts.image.parameters()).add_(1)  # another tower
    assert computed(second) == 20
