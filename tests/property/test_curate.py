"""Any captions and entries: all backends follow the written rule, and any split of a pool gives the same rows."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data.curate import Balancer, SubstringMatcher, entry_counts
from tether.data.curate.metaclip.pretokenise import spaced, token_lists, tokens

LETTERS = "ab ,.`\t\n\r-é犬\u00a0\u0301\x00"
TEXT = st.text(alphabet=LETTERS, max_size=24)
ENTRIES = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=6), min_size=1, max_size=30, unique=True)


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet=LETTERS, max_size=40), max_size=8))
def test_columns_are_read_as_texts_are(texts):
    import pyarrow as pa

    assert token_lists(pa.array(texts, pa.string())).to_pylist() == [tokens(text) for text in texts]


@settings(max_examples=100, deadline=None)
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
