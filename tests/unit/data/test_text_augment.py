"""Text augmentation: stop words, exactly one operation; sides and negations that survive it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import Row
from tether.data.captions import (
    CAPTION_PICKS,
    Augmented,
    CarefullyAugmented,
    TextAugment,
    mirrored,
    names_side,
    protected,
)
from tether.data.captions.augment import OPERATIONS
from tether.data.captions.laterality import keeps_meaning
from tether.data.captions.rng import of_key

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


REPORT = "There is a small mark in the left field, no mark in the right field and a dark line below."


def test_a_side_is_named_or_not():
    assert names_side("A mark, on the LEFT.")
    assert not names_side("a bright mark")
    assert not names_side("")


def test_mirroring_twice_is_nothing_and_marks_stay():
    assert mirrored("Left, (right) and left-sided: no side") == "Right, (left) and right-sided: no side"
    assert mirrored(mirrored(REPORT)) == REPORT
    assert mirrored("alright, bright") == "alright, bright"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left\nlung", "right\nlung"),
        ("left\t lung", "right\t lung"),
        ("left/right base", "right/left base"),
        ("the left-most, left-handed one", "the right-most, right-handed one"),
        ("LEFT Left left's", "RIGHT Right right's"),
        ("upright copyright lefty right2", "upright copyright lefty right2"),
    ],
)
def test_sides_between_any_marks(text, expected):
    assert mirrored(text) == expected
    assert mirrored(expected) == text
    assert names_side(text) is (text != expected)


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (REPORT, REPORT.replace("small", "tiny"), True),
        (REPORT, REPORT.replace("dark", "black"), True),
        (REPORT, mirrored(REPORT), False),
        (REPORT, REPORT.replace("no mark", "mark"), False),
        ("left lung, right heart", "left heart, right lung", False),
        ("no mark here today", "no line here today", False),
        ("a mark", "no mark", False),
        ("bilateral marks here", "marks here", False),
        ("", "", True),
    ],
)
def test_what_keeps_the_meaning(before, after, same):
    assert keeps_meaning(before, after=after) is same
    assert protected(before, after=after) == (after if same else before)


def test_plain_augmentation_breaks_reports_and_the_careful_one_does_not():
    augment = TextAugment()
    broken = [
        text
        for number in range(200)
        if not keeps_meaning(
            REPORT, after=(text := augment.strong(REPORT, generator=of_key(str(number), seed=0, salt="t")))
        )
    ]
    assert len(broken) > 100
    pick, row = CAPTION_PICKS["carefully_augmented"](), Row("a", None, (REPORT,))
    found = [pick(row, draw=hash_int(str(number))) for number in range(300)]
    assert all(keeps_meaning(REPORT, after=text) for text in found)
    assert len(set(found)) > 5


def test_its_settings_are_those_of_the_plain_one():
    still = CarefullyAugmented(augmented={"strength": "weak", "remove": 0.0})
    assert still(Row("a", None, (REPORT,)), draw=7) == REPORT
    with pytest.raises(InputError, match="strength"):
        CarefullyAugmented(augmented={"strength": "mild"})
