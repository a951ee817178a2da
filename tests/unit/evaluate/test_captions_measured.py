"""CIDEr, true words and repetition."""

from __future__ import annotations

import math
import random

import pytest

from tether.core.errors import InputError
from tether.evaluate.captions import attribute_scores, cider, repeated_bigrams


class TestCider:
    def test_needs_no_java_and_prefers_the_reference(self) -> None:
        references = [["a red ball on the grass", "one red ball"], ["two cats sleep in the sun"], ["a tall tree"]]
        same = cider([some[0] for some in references], references)
        other = cider(["a tall tree", "a red ball", ""], references)
        assert same.mean > other.mean
        assert other.each[2] == 0
        assert same.each[1] == pytest.approx(10)

    def test_it_is_pycocoevalcaps(self) -> None:
        scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer()
        draws = random.Random(0)
        words = ["a", "red", "blue", "ball", "cube", "dog", "cat", "lies", "in", "the", "sun"]
        texts = [" ".join(draws.choices(words, k=draws.randint(1, 12))) for _ in range(200)]
        captions, references = texts[:50], [texts[50 + 3 * place : 53 + 3 * place] for place in range(50)]
        for caption, some in zip(captions, references, strict=True):
            scorer += (caption, some)
        assert cider(captions, references).each == pytest.approx(scorer.compute_score()[1], abs=1e-12)

    def test_case_and_punctuation_do_not_count(self) -> None:
        references = [["a red ball on grass"], ["two cats in the sun"]]
        plain = cider(["a red ball on grass", "two cats"], references)
        assert plain.mean == cider(["A red ball, on grass.", "Two cats!"], references).mean

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="references"):
            cider([], [])
        with pytest.raises(InputError, match="references"):
            cider(["a"], [["a"], ["b"]])
        with pytest.raises(InputError, match="place 1"):
            cider(["a", "b"], [["a"], [" "]])
        with pytest.raises(InputError, match="string"):
            cider(["a", "b"], ["a", "b"])


class TestAttributeScores:
    def test_phrases_stand_side_by_side(self) -> None:
        found = attribute_scores(["a red ball and a blue cube"], [{"red cube", "blue cube"}])
        assert found.recall == 0.5
        assert found.precision == 1.0

    def test_nothing_said(self) -> None:
        found = attribute_scores(["", "red"], [{"red"}, set()], known={"red"})
        assert found.recall == 0
        assert found.precision == 0
        assert math.isnan(found.each[1])

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="attribute of some image"):
            attribute_scores(["a"], [set()])


class TestRepeatedBigrams:
    def test_share(self) -> None:
        assert repeated_bigrams(["a b a b", "a b c", "b b b", ""]) == 0.5
        with pytest.raises(InputError, match="captions"):
            repeated_bigrams([])
