"""Text augmentation: stop words, exactly one operation, and the text that stays where nothing would be left."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tether.core.errors import InputError
from tether.core.types import Row
from tether.data.captions import Augmented, TextAugment
from tether.data.captions.augment import OPERATIONS

SYNONYMS = {"large": ["big"], "cat": ["kitty", "tomcat"]}
STOP = {"a", "the", "on", "of"}


def made(**keywords) -> TextAugment:
    return TextAugment(**{"synonyms": SYNONYMS, "stopwords": STOP, **keywords})


class Fixed:
    """Hands out given numbers."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


def test_weak_removes_all_stop_words_or_none():
    augment = made()
    text = "The large cat, on a mat"
    assert augment.weak(text, generator=Fixed(0.79)) == "large cat, mat"
    assert augment.weak(text, generator=Fixed(0.8)) == text
    counts = Counter(augment.weak(text, generator=random.Random(seed)) for seed in range(5000))
    assert counts["large cat, mat"] / 5000 == pytest.approx(0.8, abs=0.02)


def test_what_would_be_empty_stays():
    assert made().weak("on the", generator=Fixed(0.0)) == "on the"
    assert made().strong("", generator=Fixed()) == ""
    assert made().strong("the", generator=Fixed(0.0, 0.99)) == "the"
    assert made(delete_chance=1.0).pick("delete")("one two", Fixed(0.1, 0.2, 0.9)) == "two"


def test_strong_is_weak_and_exactly_one_operation():
    augment = made(remove=1.0)
    text = "the large cat on a mat"
    changed = Counter()
    for seed in range(4000):
        words = augment.strong(text, generator=random.Random(seed)).split()
        if words == ["large", "cat", "mat"]:
            changed["same"] += 1
        elif sorted(words) == ["cat", "large", "mat"]:
            changed["swap"] += 1
            assert sum(one != other for one, other in zip(words, ["large", "cat", "mat"], strict=True)) == 2
        elif len(words) == 3:
            changed["synonym"] += 1
            assert sum(one != other for one, other in zip(words, ["large", "cat", "mat"], strict=True)) == 1
        else:
            changed["delete"] += 1
    assert changed["swap"] / 4000 == pytest.approx(0.4, abs=0.03)
    assert changed["synonym"] / 4000 == pytest.approx(0.4, abs=0.03)
    assert changed["same"] / 4000 == pytest.approx(0.2 * 0.9**3, abs=0.02)


def test_weights_need_not_add_up_and_one_alone_is_always_taken():
    for operation in OPERATIONS:
        augment = made(remove=0.0, weights={operation: 7.0}, delete_chance=1.0)
        found = augment.strong("large cat", generator=random.Random(1))
        expected = {
            "identity": {"large cat"},
            "synonym": {"big cat", "large kitty", "large tomcat"},
            "swap": {"cat large"},
            "delete": {"large", "cat"},
        }
        assert found in expected[operation]


def test_operations_one_by_one():
    augment = made()
    assert augment.pick("identity")("x  y", Fixed()) == "x  y"
    assert augment.pick("synonym")("A Cat, the cat!", Fixed(0.0, 0.0)) == "A Kitty, the kitty!"
    assert augment.pick("synonym")("nothing known", Fixed()) == "nothing known"
    assert augment.pick("swap")("alone", Fixed()) == "alone"
    assert augment.pick("delete")("alone", Fixed()) == "alone"
    assert augment.pick("delete")("one two three", Fixed(0.05, 0.5, 0.5)) == "two three"


def test_the_shipped_words_are_used_where_none_are_given():
    assert TextAugment().weak("a picture of the cat", generator=Fixed(0.0)) == "picture cat"
    assert TextAugment(stopwords=()).weak("a cat", generator=Fixed(0.0)) == "a cat"
    assert TextAugment().pick("synonym")("a bicycle", Fixed(0.0, 0.0)) == "a bike"


def test_settings_tell_word_lists_of_one_size_apart():
    one = TextAugment(synonyms={"cat": ["puss"]}, stopwords={"a", "the"})
    assert one.settings == TextAugment(synonyms={"cat": ["puss"]}, stopwords=["the", "a"]).settings
    assert one.settings != TextAugment(synonyms={"cat": ["tom"]}, stopwords={"a", "the"}).settings
    assert one.settings != TextAugment(synonyms={"cat": ["puss"]}, stopwords={"a", "an"}).settings


def test_other_scripts_and_long_texts():
    text = "قطة على السجادة é🙂"
    assert set(made().strong(text, generator=random.Random(0)).split()) <= set(text.split())
    long = "the cat " * 120_000
    assert len(made(remove=1.0, weights={"swap": 1.0}).strong(long, generator=random.Random(0)).split()) == 120_000


@pytest.mark.parametrize(
    "keywords",
    [
        {"weights": {"shuffle": 1.0}},
        {"weights": {}},
        {"synonyms": None, "words": "no such file.yaml"},
    ],
)
def test_refused(keywords):
    with pytest.raises(InputError):
        made(**keywords)
    with pytest.raises(InputError, match="operation"):
        made().pick("shuffle")


def test_as_a_pick_it_is_the_same_for_the_same_draw():
    pick = Augmented(remove=0.5)
    row = Row("key", None, ("the large cat sits on a mat", "a large dog in the sun"))
    found = [pick(row, draw=draw) for draw in range(40)]
    assert found == [pick(row, draw=draw) for draw in range(40)]
    assert len(set(found)) > 10
    with pytest.raises(InputError, match="augmented: inner"):
        Augmented(inner="augmented")
