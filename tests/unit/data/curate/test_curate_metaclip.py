"""MetaCLIP: what matches, probabilities and draws of balancing, metadata lists; and what is refused."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest

from tether.core.errors import InputError
from tether.data.curate import Balancer, SubstringMatcher, build_metadata, entry_counts, tail_share, threshold_for_share
from tether.data.curate.metaclip.matcher import _CHUNK
from tether.data.curate.metaclip.metadata import (
    NgramCounts,
    collocations,
    frequent,
    numbers,
    read_entries,
    unreachable,
    wordnet_heads,
)

ENTRIES = ["dog", "hot dog", "a b c", "b c", ",", "x ,  y", "café", "犬"]
BACKENDS = ["ngram", "ahocorasick", "naive"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a hot dog", [0, 1]),
        ("hot  dog", [0]),
        ("hot-dog", []),
        ("Dog", []),
        ("dog!", [0]),
        ("a b c", [2, 3]),
        ("a b b c", [3]),
        ("x, y", [4, 5]),
        ("x , y", [4]),
        ("café 犬", [6, 7]),
        ("", []),
        (" ", []),
        ("dog " * 10_000, [0]),
        ("dog \udcff", [0]),
    ],
)
def test_rule(backend, text, found):
    matcher = SubstringMatcher(ENTRIES, backend=backend)
    assert matcher.match(text) == found
    indptr, ids = matcher.match_many([text, None, text])
    assert indptr.tolist() == [0, len(found), len(found), 2 * len(found)]
    assert ids.tolist() == found * 2


def test_columns_of_any_layout_and_length():
    texts = ["a hot dog", None, "x, y", ""] * (_CHUNK // 3)
    matcher = SubstringMatcher(ENTRIES)
    indptr, ids = matcher.match_many(texts)
    assert len(indptr) == len(texts) + 1
    assert ids.tolist() == [0, 1, 4, 5] * (_CHUNK // 3)
    layouts = [
        pa.array(texts),
        pa.array(texts, pa.large_string()),
        pa.chunked_array([texts[:5], texts[5:]]),
        pa.array(["dog", *texts]).slice(1),
        tuple(texts),
    ]
    for layout in layouts:
        again = matcher.match_many(layout)
        assert again[0].tolist() == indptr.tolist()
        assert again[1].tolist() == ids.tolist()


@pytest.mark.parametrize("empty", [[], pa.array([], pa.string()), pa.chunked_array([], pa.string())])
def test_no_captions(empty):
    indptr, ids = SubstringMatcher(ENTRIES).match_many(empty)
    assert indptr.tolist() == [0]
    assert len(ids) == 0


def test_column_of_nulls():
    indptr, ids = SubstringMatcher(ENTRIES).match_many(pa.nulls(3))
    assert indptr.tolist() == [0, 0, 0, 0]
    assert len(ids) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_entry_counts_at_its_first_place(backend):
    with pytest.raises(InputError, match=r"entries\[2\]: 'dog' already stands at 0"):
        SubstringMatcher(["dog", "cat", "dog"], backend=backend)
    matcher = SubstringMatcher(["dog", "cat", "dog", "bird"], backend=backend, on_duplicate="first")
    assert matcher.match("dog bird") == [0, 3]
    assert matcher.match_many(["dog bird"])[1].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ([], InputError, "the metadata is empty"),
        (["a", ""], InputError, r"entries\[1\]: an entry must not be empty"),
        (["a", 3], TypeError, r"entries\[1\]: expected str, got int"),
    ],
)
def test_refused_entries(entries, error, message):
    with pytest.raises(error, match=message):
        SubstringMatcher(entries)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 3], r"captions\[1\]: expected str or None, got int"),
        (["a", b"dog"], r"captions\[1\]: expected str or None, got bytes"),
        ("dog", "got one str"),
        (pa.array([1, 2]), "expected a column of strings, got int64"),
    ],
)
def test_refused_captions(texts, message):
    with pytest.raises(TypeError, match=message):
        SubstringMatcher(ENTRIES).match_many(texts)
    with pytest.raises(TypeError, match="expected str or None, got int"):
        SubstringMatcher(ENTRIES).match(3)  # pyrefly: ignore


def test_unreachable_entries_are_named():
    assert unreachable(["St. Louis", "dog", ",", "x , y", "a\tb", "e-mail"]) == ["St. Louis", "a\tb"]
    assert SubstringMatcher(["St. Louis"]).match("St. Louis") == []


INDPTR = np.array([0, 2, 2, 3, 5])
IDS = np.array([0, 1, 1, 1, 2])
COUNTS = np.array([10, 40, 2])


def test_probabilities_by_hand():
    balancer = Balancer(t=10).fit(COUNTS)
    assert balancer.entry_prob_.tolist() == [1.0, 0.25, 1.0]
    assert balancer.pair_prob(INDPTR, IDS).tolist() == [1.0, 0.0, 0.25, 1.0]
    thin = Balancer(t=5).fit(COUNTS).pair_prob(INDPTR, IDS)
    assert thin == pytest.approx([1 - 0.5 * 0.875, 0, 0.125, 1])


def test_counts_add_over_shards():
    whole = entry_counts(INDPTR, IDS, n=3)
    assert whole.dtype == np.uint64
    assert whole.tolist() == [1, 3, 1]
    parts = entry_counts(INDPTR[:3], IDS[:2], n=3)
    parts += entry_counts(INDPTR[2:] - 2, IDS[2:], n=3)
    assert parts.tolist() == whole.tolist()


@pytest.mark.parametrize("sampler", [random.Random, np.random.RandomState, np.random.default_rng, int])
def test_number_kept_is_within_four_sigma(sampler):
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 4, 20_000)
    indptr = np.concatenate(([0], np.cumsum(sizes)))
    ids = rng.integers(0, 50, int(sizes.sum()))
    balancer = Balancer(t=100).fit(entry_counts(indptr, ids, n=50))
    chance = balancer.pair_prob(indptr, ids)
    kept = balancer.sample(indptr, ids, random_state=sampler(3))
    assert (np.diff(kept) > 0).all()
    assert (chance[kept] > 0).all()
    assert abs(len(kept) - chance.sum()) < 4 * math.sqrt((chance * (1 - chance)).sum())


def test_infinite_threshold_keeps_all_that_match():
    balancer = Balancer(t=math.inf).fit(COUNTS)
    assert balancer.pair_prob(INDPTR, IDS).tolist() == [1, 0, 1, 1]
    assert balancer.sample(INDPTR, IDS, random_state=0).tolist() == [0, 2, 3]
    assert balancer.sample(INDPTR, IDS, random_state=random.Random(0)).tolist() == [0, 2, 3]


def test_tail_share_and_its_threshold():
    assert tail_share(COUNTS, t=10) == pytest.approx(2 / 52)
    assert tail_share(COUNTS, t=11) == pytest.approx(12 / 52)
    assert threshold_for_share(COUNTS, share=12 / 52) == 10
    assert Balancer(tail_share=12 / 52).fit(COUNTS).t_ == 10
    assert Balancer(tail_share=0.0).fit(np.array([0, 3])).t_ == 1  # a count of zero is no threshold


def test_state_continues():
    balancer = Balancer(t=10).fit(COUNTS)
    state = json.loads(json.dumps(balancer.state_dict()))
    other = Balancer(t=10)
    other.load_state_dict(state)
    assert other.pair_prob(INDPTR, IDS).tolist() == balancer.pair_prob(INDPTR, IDS).tolist()
    assert other.sample(INDPTR, IDS, random_state=1).tolist() == balancer.sample(INDPTR, IDS, random_state=1).tolist()
    with pytest.raises(InputError, match=r"does not fit a balancer of .*11"):
        Balancer(t=11).load_state_dict(state)
    fresh = Balancer(t=10)
    fresh.load_state_dict(Balancer(t=10).state_dict())
    with pytest.raises(InputError, match="no counts yet"):
        fresh.pair_prob(INDPTR, IDS)


@pytest.mark.parametrize("settings", [{}, {"t": 1, "tail_share": 0.5}])
def test_refused_settings(settings):
    with pytest.raises(InputError, match="expected"):
        Balancer(**settings)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.array([1.5]), "whole numbers, got float64"),
        (np.array([3, -1]), r"counts\[1\]: expected at least 0"),
        (np.zeros((2, 2), int), "one count for each entry"),
        (np.array([], int), "one count for each entry"),
    ],
)
def test_refused_counts(counts, message):
    with pytest.raises(InputError, match=message):
        Balancer(t=1).fit(counts)


def test_refused_rows_and_shares():
    balancer = Balancer(t=1).fit(COUNTS)
    with pytest.raises(InputError, match="ids: expected 0 to 2, got 0 to 3"):
        balancer.pair_prob(np.array([0, 2]), np.array([0, 3]))
    with pytest.raises(InputError, match="row pointers from 0 up to 2"):
        balancer.sample(np.array([0, 1]), np.array([0, 1]), random_state=0)
    with pytest.raises(InputError, match="no entry has a match"):
        tail_share(np.zeros(3, int), t=1)
    with pytest.raises(InputError, match="no entry has a match"):
        Balancer(tail_share=0.5).fit(np.zeros(3, int))


def test_sources_in_order_without_repeats_marks_and_empties():
    sources = [numbers()[:3], wordnet_heads(["hot_dog.n.01", "dog.n.03", "dog.v.01"]), ["", ",", "1", "--", "cat"]]
    assert build_metadata(sources) == ["0", "1", "2", "hot dog", "dog", "--", "cat"]
    assert build_metadata(sources, limit=4) == ["0", "1", "2", "hot dog"]
    with pytest.raises(InputError, match="limit"):
        build_metadata(sources, limit=0)


def test_frequent_words_ties_by_word():
    assert frequent({"b": 100, "a": 100, "c": 500, "d": 99}) == ["c", "a", "b"]


def test_collocations_by_pointwise_mutual_information():
    unigrams = {"new": 4, "york": 2, "the": 10}
    bigrams = {("new", "york"): 2, ("the", "new"): 2}
    score = math.log2(2 * 16 / (4 * 2))
    assert collocations(bigrams, unigrams=unigrams, minimum_pmi=score) == ["new york"]
    assert collocations(bigrams, unigrams=unigrams, minimum_pmi=score + 1e-9) == []
    assert collocations(bigrams, unigrams=unigrams, minimum_pmi=-9) == ["new york", "the new"]
    assert collocations(bigrams, unigrams=unigrams, minimum_pmi=-9, minimum=3) == []


def test_counts_of_a_pool():
    texts = pa.array(["New York, New York", None, "a  York -- a York", ""])
    counts = NgramCounts().partial_fit(texts)
    assert dict(counts.unigrams) == {"New": 2, "York": 4, "a": 2}
    assert dict(counts.bigrams) == {("New", "York"): 2, ("a", "York"): 1}
    halves = NgramCounts().partial_fit(texts[:2]).merge(NgramCounts().partial_fit(texts[2:]))
    assert (halves.unigrams, halves.bigrams) == (counts.unigrams, counts.bigrams)
    assert counts.entries(minimum=2, minimum_pmi=0) == ["York", "New", "a", "New York"]
    with pytest.raises(InputError, match="no word of the captions stands in them 9 times"):
        counts.entries(minimum=9)


def test_entries_of_files(tmp_path):
    lines = tmp_path / "words.txt"
    lines.write_text("hot dog\r\ncaf\u00e9\nline\u2028separator\n", encoding="utf-8-sig")
    assert read_entries(lines) == ["hot dog", "caf\u00e9", "line\u2028separator"]
    listed = tmp_path / "words.json"
    listed.write_text('["a", "b c"]')
    assert read_entries(listed) == ["a", "b c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "no entries"),
        ("a.txt", b"dog\n\ncat\n", "line 2: an entry must not be empty"),
        ("a.txt", b"dog\ncat\ndog\n", "line 3: 'dog' already stands in line 1"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.json", b'{"a": 1}', "expected a JSON list of texts"),
        ("a.json", b"[1]", "expected a JSON list of texts"),
    ],
)
def test_refused_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_entries(tmp_path / name)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_entries(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a directory"):
        read_entries(tmp_path)
