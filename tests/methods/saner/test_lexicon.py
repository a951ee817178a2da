"""Words of an attribute: whole words only, neutral texts, versions, articles, and lists that contradict themselves."""

import pytest

from tether.core.errors import InputError
from tether.methods.saner import AttributeLexicon

KINDS = {"mouse": ["mouse", "pup", "squeak"], "cat": ["cat", "kitten", "purr"]}
NEUTRAL = {"mouse": "animal", "cat": "animal", "pup": "cub", "kitten": "cub", "squeak": "call", "purr": "call"}
NAMED = AttributeLexicon(KINDS, neutral=NEUTRAL, plurals={"mouse": "mice"})
TEXTURE = AttributeLexicon({"plain": ["plain"], "striped": ["striped", "stripy"]}, nouns=("star", "ring", "apple"))
GROUND = AttributeLexicon({"brick": ["on a brick wall", "on brick"], "paper": ["on paper"]}, place="end")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cat", True),
        ("A CAT.", True),
        ("the mice's holes", True),
        ("a mouse’s hole", True),
        ("two kittens", True),
        ("a catalogue", False),
        ("a cat-like hill", False),
        ("a concat", False),
        ("a mousetrap", False),
        ("", False),
    ],
)
def test_whole_words_in_any_form(text, found):
    assert NAMED.mentions(text) is found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat with a purr", "an animal with a call"),
        ("Cats and mice", "Animals and animals"),
        ("the kitten's ball", "the cub's ball"),
        ("the pups' ball", "the cubs' ball"),
        ("a catalogue", "a catalogue"),
    ],
)
def test_neutral(text, expected):
    assert NAMED.neutralize(text) == expected
    assert not NAMED.mentions(NAMED.neutralize(text))
    assert NAMED.neutralize(expected) == expected


def test_versions_exchange_words():
    assert NAMED.versions("a cat and a purr") == {"mouse": "a mouse and a squeak", "cat": "a cat and a purr"}
    assert NAMED.versions("two animals") == {"mouse": "two mice", "cat": "two cats"}
    assert NAMED.versions("a red bus") is None


def test_adjectives_stand_before_nouns_and_move_the_article():
    assert TEXTURE.neutralize("a striped apple") == "an apple"
    assert TEXTURE.neutralize("a plain star") == "a star"
    assert TEXTURE.versions("an apple and a ring") == {
        "plain": "a plain apple and a plain ring",
        "striped": "a striped apple and a striped ring",
    }
    assert TEXTURE.versions("two stars") == {"plain": "two plain stars", "striped": "two striped stars"}
    assert TEXTURE.versions("a moon") is None


def test_phrases_go_to_the_end():
    assert GROUND.mentions("a star on a  Brick wall")
    assert GROUND.neutralize("a red star on a brick wall") == "a red star"
    assert GROUND.neutralize("a red star on brick.") == "a red star."
    assert GROUND.versions("a red star on paper") == {
        "brick": "a red star on a brick wall",
        "paper": "a red star on paper",
    }
    assert GROUND.versions("can you spot a star?") == {
        "brick": "can you spot a star on a brick wall?",
        "paper": "can you spot a star on paper?",
    }
    assert GROUND.versions("") is None


def test_phrases_want_a_noun_where_nouns_are_given():
    ground = AttributeLexicon({"a": ["on brick"], "b": ["on paper"]}, place="end", nouns=("star",))
    assert ground.versions("a moon") is None
    assert ground.versions("two stars") == {"a": "two stars on brick", "b": "two stars on paper"}


def test_each_version_names_its_group_alone():
    for lexicon, text in ((NAMED, "an animal"), (TEXTURE, "a ring"), (GROUND, "a ring")):
        made = lexicon.versions(text)
        assert len(set(made.values())) == len(lexicon.groups)
        assert all(lexicon.mentions(version) for version in made.values())
        assert {lexicon.neutralize(version) for version in made.values()} == {text}


def test_without_inflection():
    exact = AttributeLexicon({"a": ["rot"], "b": ["blau"]}, nouns=("stern",), inflection="none")
    assert not exact.mentions("rots")
    assert exact.versions("ein stern") == {"a": "ein rot stern", "b": "ein blau stern"}


def test_round_trip(tmp_path):
    NAMED.save(tmp_path / "words.json")
    back = AttributeLexicon.load(tmp_path / "words.json")
    assert back == NAMED
    assert back.versions("a cat") == NAMED.versions("a cat")
    for text in ("{}", '{"format": "tether-attribute-lexicon-1", "words": []}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError):
            AttributeLexicon.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": {"one": ["a"]}},
        {"groups": {}},
        {"groups": {"one": ["a"], "two": ["a"]}},
        {"groups": {"one": ["A"], "two": ["b"]}},
        {"groups": {"one": [], "two": ["b"]}},
        {"groups": {"one": "ab", "two": ["c"]}},
        {"groups": {"one": ["a"], "two": ["b"]}, "neutral": {"c": "d"}},
        {"groups": {"one": ["a"], "two": ["b"]}, "neutral": {"a": "b"}},
        {"groups": {"one": ["a"], "two": ["b"]}, "nouns": ("a",)},
    ],
)
def test_refuses(settings):
    with pytest.raises(InputError):
        AttributeLexicon(**settings)
