"""Any weights, texts, rankings: draws stay in what is positive, rewrites in number, overlaps in bounds."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data.captions import CaptionPool, MixedCaptions, TemplateRewriter, TextAugment
from tether.data.captions.dataset import one_line
from tether.evaluate.ranking_overlap import average_overlap, jaccard_at

weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=6).filter(lambda values: sum(values) > 1e-3)
uniform = st.floats(0, 1, exclude_max=True)
texts = st.text(max_size=60)


@given(weights, uniform)
def test_a_text_without_weight_is_never_drawn(values, u):
    names = [f"text {number}" for number in range(len(values))]
    pool = CaptionPool(names[:1], rewrites=[names[1:]], weights=values)
    for one in (u, 0.0, math.nextafter(1, 0)):
        assert values[names.index(pool.drawn(0, u=one))] > 0


@given(weights)
def test_each_text_has_a_stretch_as_long_as_its_chance(values):
    total = math.fsum(values)
    probs = {f"text {number}": value / total for number, value in enumerate(values)}
    pool = MixedCaptions({name: [name] for name in probs}, probs=probs, fallback="text 0")
    start = 0.0
    for name, chance in probs.items():
        if chance > 1e-9:
            assert pool.drawn(0, u=min(start + chance / 2, math.nextafter(1, 0))) == name
        start += chance


@settings(max_examples=200)
@given(texts, st.integers(1, 4), st.integers(0, 1000))
def test_any_text_is_rewritten_and_augmented(text, count, seed):
    for rewriter in (TemplateRewriter(), TextAugment()):
        found = rewriter.rewrite(text, count=count, generator=random.Random(seed))
        assert len(found) == count
        assert all(isinstance(one, str) for one in found)
        assert all(one.strip() for one in found) == bool(text.strip())
        assert found == rewriter.rewrite(text, count=count, generator=random.Random(seed))


@given(st.text(alphabet=st.characters(), max_size=40))
def test_one_line_is_one_line_of_utf8(text):
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.encode().decode() == line


@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(1, 12))
def test_overlaps_are_shares_equal_for_equal_rankings_and_symmetric(one, other, k):
    for measure in (average_overlap, jaccard_at):
        found = float(measure(one, other, k=k))
        assert 0 <= found <= 1
        assert float(measure(other, one, k=k)) == pytest.approx(found)
        assert float(measure(one, one, k=k)) == 1
