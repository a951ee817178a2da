"""Words on signs, and the set of them."""

from __future__ import annotations

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.lettering.signs import GRADES, Wear, draw_sign, lexicon
from tether.data.sets.lettering import LetteringSet


def test_words_differ_and_fit():
    words = lexicon(2000)
    assert len(set(words)) == 2000
    assert {len(word) for word in words} <= set(range(3, 9))
    assert words == lexicon(2000)
    assert words != lexicon(2000, seed=1)
    with pytest.raises(InputError, match="count"):
        lexicon(4000, longest=3)


def test_a_sign_is_the_same_in_every_grade_but_for_its_wear():
    drawn = {name: draw_sign("exit", rng=np.random.default_rng(3), wear=wear) for name, wear in GRADES.items()}
    clean = drawn["clean"].astype(float)
    off = {name: np.abs(pixels - clean).mean() for name, pixels in drawn.items()}
    assert off["clean"] == 0 < off["light"] < off["middle"] < off["heavy"]
    barred = draw_sign("exit", rng=np.random.default_rng(3), wear=Wear(bars=2)) != drawn["clean"]
    changed = barred.any(2)
    assert changed.any(0).mean() < 0.5
    assert changed.all(0).sum() > 0


@pytest.mark.parametrize("word", ["i", "W", "incomprehensible"])
def test_a_word_fits_and_can_be_seen(word):
    pixels = draw_sign(word, rng=np.random.default_rng(1), height=20, width=50)
    assert pixels.shape == (20, 50, 3)
    assert np.ptp(pixels.mean(2)) > 40


def test_bad_signs():
    rng = np.random.default_rng(0)
    for word, told in (("", "something to draw"), ("東", "has no")):
        with pytest.raises(InputError, match=told):
            draw_sign(word, rng=rng)
    with pytest.raises(InputError, match="cannot read"):
        draw_sign("a", rng=rng, fonts=["none.ttf"])


def test_the_set():
    known, unseen = (
        open_source(f"lettering:split=test,rows=30,grade=mixed,words={words}") for words in ("known", "unseen")
    )
    assert isinstance(known, LetteringSet)
    assert not {*known.lexicon} & {*unseen.lexicon}
    train = LetteringSet(rows=30, grade="mixed")
    assert train.lexicon == known.lexicon
    rows = [train.row(index) for index in range(30)]
    assert {row.meta["grade"] for row in rows} == {*GRADES}
    assert all(row.texts == (row.meta["word"],) and row.meta["word"] in train.lexicon for row in rows)
    clean = LetteringSet(rows=30)
    assert [clean.row(index).texts for index in range(30)] == [row.texts for row in rows]
    assert not np.array_equal(train.row(0).image, known.row(0).image)
    assert len({one.version for one in (train, known, unseen, clean)}) == 4
    with pytest.raises(InputError, match="known for train"):
        LetteringSet(words="unseen")
