"""Metadata lists: their sources, their order, the pool's own words, and files."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from tether.core.errors import InputError
from tether.data.curate import build_metadata
from tether.data.curate.metaclip.metadata import (
    NgramCounts,
    collocations,
    frequent,
    numbers,
    read_entries,
    wordnet_heads,
)


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
    with pytest.raises(InputError, match="no word of the pool stands in it 9 times"):
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
