"""MetaCLIP matching: what matches, what is refused, and that columns, lists and single texts agree."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tether.core.errors import InputError
from tether.data.curate import SubstringMatcher
from tether.data.curate.metaclip.matcher import _CHUNK
from tether.data.curate.metaclip.metadata import unreachable

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
