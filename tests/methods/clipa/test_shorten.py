"""Captions with fewer words."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data.captions import CAPTION_PICKS, LexiconTagger
from tether.methods.clipa import Shortened, shorten

WORDS = ["there", "is", "a", "very", "large", "red", "barn", "on", "the", "hill", "behind", "two", "horses"]


@pytest.mark.parametrize("method", ["truncate", "random", "block", "syntax"])
def test_a_text_that_is_short_enough_stays_and_a_longer_one_loses_words_alone(method):
    settings: dict[str, Any] = {"method": method, "generator": random.Random(0)}
    for count in range(len(WORDS) + 1):
        some = WORDS[:count]
        found = shorten(some, most=5, classes=list(range(count)), **settings)
        assert len(found) == min(5, count)
        assert [word for word in some if word in found] == found


def test_a_block_reaches_both_ends_evenly():
    generator = random.Random(0)
    starts = Counter(shorten(range(10), most=8, method="block", generator=generator)[0] for _ in range(3000))
    assert set(starts) == {0, 1, 2}
    assert min(starts.values()) > 900


def test_without_their_order_words_come_as_they_are_drawn():
    found = [
        shorten(range(9), most=4, method="random", keep_order=False, generator=random.Random(n)) for n in range(20)
    ]
    assert any(places != sorted(places) for places in found)
    assert all(len(set(places)) == 4 for places in found)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"most": 0}, "most: expected"),
        ({"most": 3, "method": "grammar"}, "method: expected"),
        ({"most": 3, "method": "syntax"}, "classes: syntax needs one for each piece"),
        ({"most": 3, "method": "syntax", "classes": [1, 2]}, "classes: expected one for each of 13 pieces, got 2"),
        ({"most": 3, "method": "random"}, "generator: random draws"),
    ],
)
def test_what_cannot_be_shortened_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        shorten(WORDS, **settings)


def test_nouns_go_before_adjectives_before_verbs():
    def said(context: int) -> str:
        return Shortened(context=context)(Row("key", None, (" ".join(WORDS),)), draw=3)

    assert said(5) == "barn hill horses"
    assert said(7) == "large red barn hill horses"
    assert said(8) == "is large red barn hill horses"
    assert said(40) == " ".join(WORDS)


@pytest.mark.parametrize("method", ["truncate", "random", "block", "syntax"])
def test_the_same_draw_gives_the_same_words_and_no_text_is_lost(method):
    pick = build({"name": "shortened", "context": 4, "method": method}, CAPTION_PICKS, where="caption")
    row = Row("key", None, (" ".join(WORDS), "dog"))
    found = {pick(row, draw=draw) for draw in range(100)}
    assert found == {pick(row, draw=draw) for draw in range(100)}
    assert "dog" in found
    assert all(1 <= len(text.split()) <= 2 for text in found)


def test_another_tagger_and_other_lists_decide_what_stays(tmp_path):
    row = Row("key", None, ("ein roter Hund schläft auf dem Sofa",))
    tagged = Shortened(context=4, tagger=lambda words: ["NN" if word[0].isupper() else "XY" for word in words])
    assert tagged(row, draw=0) == "Hund Sofa"
    (tmp_path / "german.yaml").write_text(
        "other: ein auf dem\nendings: {ter: adjective, äft: verb}\n", encoding="utf-8"
    )
    assert Shortened(context=4, words=str(tmp_path / "german.yaml"))(row, draw=0) == "Hund Sofa"
    assert Shortened(context=5, words=str(tmp_path / "german.yaml"))(row, draw=0) == "roter Hund Sofa"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nouns: dog\n", "expected some of the keys"),
        ("noun: [dog]\n", "noun: expected words with blanks"),
        ("endings: {ly: adverb}\n", "endings: expected one of"),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path, text, says):
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        LexiconTagger(words=str(tmp_path / "words.yaml"))


@pytest.mark.parametrize("settings", [{"context": 2}, {"context": 8, "inner": "shortened"}, {}])
def test_a_context_without_room_for_a_word_is_refused(settings):
    with pytest.raises(InputError, match=r"context|inner: unknown part"):
        build({"name": "shortened", **settings}, CAPTION_PICKS, where="caption")


def test_capitals_and_marks_do_not_matter_and_an_empty_text_has_no_tags():
    tagger = LexiconTagger()
    assert tagger(["The", "Dog,", "RUNS!", "--", "3"]) == ["DT", "NN", "VB", "IN", "IN"]
    assert tagger([]) == []
    assert shorten([], most=3, method="syntax", classes=[]) == []
