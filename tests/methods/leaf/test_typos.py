"""Edits of one character, and which of them leave no other word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.core.errors import InputError
from tether.methods.leaf.typos import ALPHABET, DELETE, WordConstraint, edit, slot_count


def distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != other))
    return row[-1]


@given(st.text(max_size=8), st.data())
def test_one_edit_is_at_most_one_step(text, data):
    slot = data.draw(st.integers(0, slot_count(text) - 1))
    code = data.draw(st.sampled_from(ALPHABET))
    found = edit(text, slot, code, alternative=DELETE)
    assert distance(text, found) <= 1
    assert (found == text) == (slot % 2 == 0 and code == DELETE)


def test_all_edits_of_a_text_are_reached():
    made = {edit("ab", slot, code) for slot in range(slot_count("ab")) for code in (DELETE, ord("c"))}
    assert made == {"ab", "cab", "b", "cb", "acb", "a", "ac", "abc"}


@pytest.mark.parametrize(("slot", "code"), [(5, 97), (-1, 97), (0, -2)])
def test_no_such_edit(slot, code):
    with pytest.raises(InputError, match="expected"):
        edit("ab", slot, code)


def test_an_empty_text_has_one_gap():
    assert slot_count("") == 1
    assert edit("", 0, 97) == "a"
    with pytest.raises(InputError, match="expected 0 to 0 in ''"):
        edit("", 1, 97)


def test_rules_of_words():
    words = ["the", "cat", "at", "hat"]
    texts = ["the cat", "the cat", "the cat", "the cat", "The CAT cat"]
    changed = ["the at", "the c@t", "the cat", "the catx", "The CAT ca"]
    assert WordConstraint(words)(changed, texts) == [False, True, False, True, False]
    assert WordConstraint(words, rule="le")(changed, texts) == [True, True, True, True, True]
    assert WordConstraint(words, tokenize=str.split)(["the-cat"], ["the cat"]) == [True]
    assert WordConstraint(words)(["the-cat"], ["the cat"]) == [False]


def test_words_of_texts_are_their_own_list():
    own = WordConstraint.of(["Ein grüner Käfer", "zwei Bäume"], rule="le")
    assert own.words == {"ein", "grüner", "käfer", "zwei", "bäume"}
    assert own(["ein grüner kafer"], ["ein grüner käfer"]) == [True]
    assert own.count("Käfer, KÄFER!") == 1
