"""Any captions, entries and sizes: draws, rewrites, backends and splits keep their rules; resuming changes nothing."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.core.types import Block, ImageSpec, Row
from tether.data.captions import CaptionPool, MixedCaptions, TemplateRewriter, TextAugment
from tether.data.curate import Balancer, SubstringMatcher, entry_counts
from tether.data.curate.metaclip.spacing import spaced, token_lists, tokens
from tether.data.loader import Loader
from tether.data.shuffle import permutation
from tether.methods.laclip.dataset import one_line
from tether.methods.paraclip.ranking_overlap import average_overlap, jaccard_at

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


LETTERS = "ab ,.`\t\n\r-é犬\u00a0\u0301\x00"
TEXT = st.text(alphabet=LETTERS, max_size=24)
ENTRIES = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=6), min_size=1, max_size=30, unique=True)


@settings(max_examples=150)
@given(ENTRIES, st.lists(st.one_of(st.none(), TEXT, st.text(max_size=30)), max_size=12))
def test_backends_agree(entries, captions):
    expected = [
        [index for index, entry in enumerate(entries) if caption is not None and f" {entry} " in spaced(caption)]
        for caption in captions
    ]
    for backend in ("ngram", "ahocorasick", "naive"):
        matcher = SubstringMatcher(entries, backend=backend)
        assert [matcher.match(caption) for caption in captions] == expected
        indptr, ids = matcher.match_many(captions)
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(indptr)] == expected


MIXED = "ab (.，犬猫タหༀ\u0301\n"


@settings(max_examples=150)
@given(
    st.lists(st.text(alphabet=MIXED, min_size=1, max_size=4), min_size=1, max_size=30, unique=True),
    st.lists(st.one_of(st.none(), st.text(alphabet=MIXED, max_size=24), st.text(max_size=30)), max_size=12),
)
def test_backends_agree_on_words_without_blanks(entries, captions):
    joined = set("(.，犬猫หༀ")
    texts = [f"{'' if entry[0] in joined else ' '}{entry}{'' if entry[-1] in joined else ' '}" for entry in entries]
    expected = [
        [index for index, text in enumerate(texts) if caption is not None and text in spaced(caption)]
        for caption in captions
    ]
    for backend in ("ngram", "ahocorasick", "naive"):
        matcher = SubstringMatcher(entries, wrap="script", backend=backend)
        assert [matcher.match(caption) for caption in captions] == expected
        indptr, ids = matcher.match_many(captions)
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(indptr)] == expected


@settings(max_examples=100)
@given(st.lists(st.text(alphabet=LETTERS, max_size=40), max_size=8))
def test_columns_are_read_as_texts_are(texts):
    import pyarrow as pa

    assert token_lists(pa.array(texts, pa.string())).to_pylist() == [tokens(text) for text in texts]


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True).map(sorted), min_size=1, max_size=30),
    st.floats(1, 20),
    st.integers(0, 2**31 - 1),
)
def test_balancing(rows, t, seed):
    indptr = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    ids = np.array([entry for row in rows for entry in row], np.int64)
    counts = entry_counts(indptr, ids, n=10)
    balancer = Balancer(t=t).fit(counts)
    chance = balancer.pair_prob(indptr, ids)
    for row, probability in zip(rows, chance, strict=True):
        assert (probability == 0) == (not row)
        if any(counts[entry] <= t for entry in row):
            assert probability == 1
        losing = np.prod([1 - t / max(int(counts[entry]), t) for entry in row])
        assert abs(probability - (1 - losing)) < 1e-12
    kept = balancer.sample(indptr, ids, random_state=seed)
    assert set(np.flatnonzero(chance == 1)) <= set(kept) <= set(np.flatnonzero(chance))
    more = Balancer(t=t + 1).fit(counts).pair_prob(indptr, ids)
    assert (more >= chance).all()


SPEC = ImageSpec((2, 2))


class Numbers:
    name, version = "numbers", "1"

    def __init__(self, count, size):
        self.count, self.size = count, size

    def blocks(self):
        return [Block(str(at)) for at in range(0, self.count, self.size)]

    def read(self, block, *, start=0):
        first = int(block.id)
        for number in range(first + start, min(first + self.size, self.count)):
            yield Row(str(number), np.full((2, 2, 3), number, np.uint8), (str(number),))


class Digits:
    context_length, vocab_size = 8, 11

    def __call__(self, texts):
        return torch.tensor([[int(letter) + 1 for letter in text.ljust(3, "9")] for text in texts])


@settings(max_examples=60)
@given(
    count=st.integers(6, 60),
    size=st.integers(1, 20),
    share=st.integers(1, 3),
    world=st.integers(1, 2),
    window=st.one_of(st.none(), st.integers(1, 40)),
    stop=st.integers(0, 12),
    seed=st.integers(0, 2**40),
)
def test_order(count, size, share, world, window, stop, seed):
    batch_size = share * world
    way = {} if window is None else {"memory": 1, "window_rows": window}

    def make(rank=0, of=1):
        return Loader(
            Numbers(count, size),
            batch_size=batch_size,
            image_spec=SPEC,
            tokenizer=Digits(),
            seed=seed,
            rank=rank,
            world=of,
            **way,
        )

    whole, shares = make(), [make(rank, world) for rank in range(world)]
    keys = []
    for step in range(stop + 4):
        if step == stop:
            again = make()
            again.load_state_dict(whole.state_dict())
        batch = next(whole)
        assert batch.image[:, 0, 0, 0].tolist() == [int(key) for key in batch.extra["keys"]]
        assert batch.extra["keys"] == [key for each in shares for key in next(each).extra["keys"]]
        if step >= stop:
            assert next(again).extra["keys"] == batch.extra["keys"]
            assert again.state_dict() == whole.state_dict()
        keys += batch.extra["keys"]
    one_epoch = keys[: count // batch_size * batch_size]
    assert len(set(one_epoch)) == len(one_epoch)


@given(count=st.integers(0, 500), seed=st.integers(0, 2**63), salt=st.text(max_size=20))
def test_permutation(count, seed, salt):
    order = permutation(count, seed=seed, salt=salt)
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, permutation(count, seed=seed, salt=salt))
