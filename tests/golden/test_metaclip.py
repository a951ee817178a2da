"""Official MetaCLIP code against ``tether.data.curate``: every array of the vector, any cases, seeds and thresholds."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from loading import load

from tether.data.curate.metaclip.balance import Balancer, entry_counts, tail_share, threshold_for_share
from tether.data.curate.metaclip.matcher import Backend, SubstringMatcher
from tether.data.curate.metaclip.spacing import spaced

VECTORS = load("metaclip")
META = VECTORS.meta
PROBABILITY_TOLERANCE = float((re.search(r"probabilities (\S+)", META.get("tolerance", "")) or ["", "1e-12"])[1])
BACKENDS: tuple[Backend, ...] = ("auto", "ngram", "ahocorasick", "naive")


def strings(name: str) -> list[str]:
    value = META[name]
    return json.loads(value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], list[str]]:
    made: dict = {}
    exec(META["generator"], made)  # the vector states its corpus as the source of its generator
    entries, captions = made["make_corpus"](**META["b_args"])
    assert made["digest"](entries) == META["b_sha256_entries"]
    assert made["digest"](captions) == META["b_sha256_captions"]
    return entries, captions


@pytest.fixture(scope="module")
def matches(corpus) -> tuple[np.ndarray, np.ndarray]:
    entries, captions = corpus
    return SubstringMatcher(entries).match_many(captions)


def test_spacing_of_tricky_captions():
    assert [spaced(caption) for caption in strings("a_captions_json")] == strings("a_spaced_json")


@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_of_tricky_captions(backend):
    captions = strings("a_captions_json")
    matcher = SubstringMatcher(strings("a_entries_json"), backend=backend, on_duplicate="first")
    indptr, ids = matcher.match_many(captions)
    np.testing.assert_array_equal(indptr, VECTORS["a_ptr"])
    np.testing.assert_array_equal(ids, VECTORS["a_ids"])
    rows = np.split(VECTORS["a_ids"], VECTORS["a_ptr"][1:-1])
    assert [matcher.match(caption) for caption in captions] == [row.tolist() for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_of_listed_captions(corpus, backend):
    entries, captions = corpus
    indptr, ids = SubstringMatcher(entries, backend=backend).match_many(captions[: META["b_n_listed"]])
    np.testing.assert_array_equal(indptr, VECTORS["b_ptr"])
    np.testing.assert_array_equal(ids, VECTORS["b_ids"])


def test_counts(corpus, matches):
    indptr, ids = matches
    assert len(ids) == META["b_matches"]
    assert (np.diff(indptr) == 0).sum() == META["b_unmatched"]
    np.testing.assert_array_equal(entry_counts(indptr, ids, n=len(corpus[0])), VECTORS["b_counts"])


@pytest.mark.parametrize("t", META["ts"])
def test_probabilities(matches, t):
    balancer = Balancer(t=float(t)).fit(VECTORS["b_counts"])
    np.testing.assert_allclose(balancer.entry_prob_, VECTORS[f"b_prob_t{t}"], rtol=0, atol=PROBABILITY_TOLERANCE)
    chance = balancer.pair_prob(*matches)
    listed = VECTORS[f"b_pair_prob_first_t{t}"]
    np.testing.assert_allclose(chance[: len(listed)], listed, rtol=0, atol=PROBABILITY_TOLERANCE)
    expected = META[f"expected_kept_t{t}"]
    assert abs(chance.sum() - expected) <= PROBABILITY_TOLERANCE * len(chance)


def bits(kept: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, np.uint8)
    mask[kept] = 1
    return np.packbits(mask)


@pytest.mark.parametrize("t", META["ts"])
def test_official_samplers_keep_the_same_captions(corpus, matches, t):
    n = len(corpus[1])
    balancer = Balancer(t=float(t)).fit(VECTORS["b_counts"])
    seed = META["b_args"]["seed"] + t
    by_python = balancer.sample(*matches, random_state=random.Random(seed))
    by_numpy = balancer.sample(*matches, random_state=np.random.RandomState(seed))
    np.testing.assert_array_equal(bits(by_python, n), VECTORS[f"b_keep_py_t{t}"])
    np.testing.assert_array_equal(bits(by_numpy, n), VECTORS[f"b_keep_np_t{t}"])
    np.testing.assert_array_equal(by_numpy, balancer.sample(*matches, random_state=seed))
    if f"n_kept_t{t}" in META:
        assert [len(by_python), len(by_numpy)] == META[f"n_kept_t{t}"]


def test_tail_shares_and_thresholds():
    counts = VECTORS["b_counts"]
    shares = [tail_share(counts, t=t) for t in META["ts"]]
    np.testing.assert_allclose(shares, VECTORS["b_p_of_t"], rtol=0, atol=PROBABILITY_TOLERANCE)
    thresholds = [threshold_for_share(counts, share=share) for share in META["p_list"]]
    np.testing.assert_array_equal(thresholds, VECTORS["b_t_of_p"])
    for share, threshold in zip(META["p_list"], VECTORS["b_t_of_p"], strict=True):
        assert Balancer(tail_share=share).fit(counts).t_ == max(threshold, 1)
