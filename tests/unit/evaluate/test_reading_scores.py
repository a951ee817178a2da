"""How well texts were read."""

from __future__ import annotations

import pytest

from tether.core.errors import InputError
from tether.evaluate.reading import reading_scores


def test_words_and_characters_count():
    found = reading_scores(["exit", "", "Push", "stopp"], ["exit", "no", "push", "stop"])
    assert found.right.rate == 0.25
    assert found.wrong == pytest.approx((0 + 2 + 1 + 1) / (4 + 2 + 4 + 4))
    low, high = found.wrong_interval
    assert 0 <= low < found.wrong < high
    assert found.lines()[0].startswith("25.0% of 4 texts read right (")
    assert reading_scores(["a"], ["a"]).wrong_interval == (0.0, 0.0)
    assert reading_scores(["aaaa"], ["a"]).wrong == 3.0


@pytest.mark.parametrize(("read", "true"), [([], []), (["a"], ["a", "b"]), (["a"], [""])])
def test_what_cannot_be_compared(read, true):
    with pytest.raises(InputError, match="expected a text for each"):
        reading_scores(read, true)
