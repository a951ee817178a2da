"""Sides and negations survive augmentation, and mirrored pictures can be told right."""

import pytest

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import Row
from tether.data.captions import CAPTION_PICKS, CarefullyAugmented, TextAugment, mirrored, names_side, protected
from tether.data.captions.laterality import keeps_meaning
from tether.data.captions.rng import of_key

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
