from collections import Counter

import pytest

from tether.core.hash_rng import hash_int
from tether.core.types import Row
from tether.data.captions import CAPTION_PICKS, FirstOften

ROW = Row("key", None, ("name", "", "one", "two"))
DRAWS = [hash_int(str(number)) for number in range(4000)]


SETTINGS = {"mixed": {"probs": {"text": 1.0}}, "augmented": {"remove": 0.0}}


@pytest.mark.parametrize("name", CAPTION_PICKS)
def test_every_pick_gives_a_caption_of_the_row_and_the_same_for_the_same_draw(name):
    pick = CAPTION_PICKS[name](**SETTINGS.get(name, {}))
    found = [pick(ROW, draw=draw) for draw in DRAWS[:50]]
    assert set(found) <= {"name", "one", "two"}
    assert found == [pick(ROW, draw=draw) for draw in DRAWS[:50]]
    assert pick(Row("key", None, ("alone",)), draw=DRAWS[0]) == "alone"


def test_random_is_fair():
    counts = Counter(CAPTION_PICKS["random"]()(ROW, draw=draw) for draw in DRAWS)
    assert all(abs(count / len(DRAWS) - 1 / 3) < 0.03 for count in counts.values())


def test_the_first_comes_with_its_chance_and_the_others_share_the_rest():
    counts = Counter(FirstOften(chance=0.7)(ROW, draw=draw) for draw in DRAWS)
    assert abs(counts["name"] / len(DRAWS) - 0.7) < 0.03
    assert abs(counts["one"] / len(DRAWS) - 0.15) < 0.03
