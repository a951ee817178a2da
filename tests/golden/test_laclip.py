"""LaCLIP's released data set class against the caption pool: every text that every draw gives, from the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from loading import load

from tether.core.types import Row
from tether.data.captions import CaptionPool, Rewritten

V = load("laclip")


def strings(name: str) -> list[list[str]]:
    """A list of lists; other vectors may hold it as JSON in an array, or in the meta."""
    value = V.meta[name] if name in V.meta else V[name].item() if V[name].ndim == 0 else V[name].tolist()
    return json.loads(value) if isinstance(value, str) else value


SUFFIXES = sorted(
    name.removeprefix("captions") for name in {*V.arrays, *V.meta} if name.startswith("captions") and "meta" not in name
)
cases = pytest.mark.parametrize("suffix", SUFFIXES)


def least_pieces() -> int:
    hyper = V.meta.get("hyper")
    return int(hyper.get("min_pieces", 2)) if isinstance(hyper, dict) else 2


@cases
def test_each_draw_gives_the_released_text(suffix: str) -> None:
    captions, chosen = strings(f"captions{suffix}"), strings(f"chosen{suffix}")
    pool = CaptionPool([row[0] for row in captions], rewrites=[row[1:] for row in captions], min_pieces=least_pieces())
    # The list of pictures may go on where the list of captions begins again.
    found = [[pool.pick(row, choice=place) for place in range(len(pool.texts(row)))] for row in range(len(chosen))]
    assert found == chosen
    assert [list(pool.texts(row)) for row in range(len(captions))] == captions


@cases
def test_a_uniform_draw_and_the_loaders_pick_give_the_same(suffix: str) -> None:
    captions, chosen = strings(f"captions{suffix}"), strings(f"chosen{suffix}")
    pool = CaptionPool([row[0] for row in captions], rewrites=[row[1:] for row in captions], min_pieces=least_pieces())
    pick = Rewritten(min_pieces=least_pieces())
    for row, texts in enumerate(chosen):
        count = len(texts)
        middle = [pool.drawn(row, u=(place + 0.5) / count) for place in range(count)]
        ends = [pool.drawn(row, u=(place + 1 - 1e-9) / count) for place in range(count)]
        assert middle == ends == texts
        own = captions[row % len(captions)]
        if own[0].strip():  # a picture without any caption never reaches a batch
            said = [pick(Row("key", None, tuple(own)), draw=place) for place in range(count)]
            assert said == [text if text.strip() else own[0] for text in texts]


def test_there_are_cases() -> None:
    assert SUFFIXES
    assert np.all([len(strings(f"chosen{suffix}")) > 0 for suffix in SUFFIXES])
