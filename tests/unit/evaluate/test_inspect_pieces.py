"""What the sections of a health report are made of: changed captions and images, bars, figures."""

from __future__ import annotations

import pytest
import torch

from tether.core.finding import Bar, Bars
from tether.data.lettering.on_images import STYLES, write
from tether.evaluate.inspect.binding import swapped
from tether.evaluate.inspect.caption_robustness import CHANGES
from tether.evaluate.inspect.intervals import mean, share
from tether.evaluate.inspect.page import draw_bars
from tether.evaluate.inspect.vocabulary import heads


@pytest.mark.parametrize(
    ("caption", "changed"),
    [
        ("a red star and a blue ring", ("a blue star and a red ring", "colour")),
        ("an orange star and a red ring", ("a red star and an orange ring", "colour")),
        ("A dog chases the cat", ("A cat chases the dog", "word")),
        ("a red star", ("a star red", "word")),
        ("a star", None),
        ("", None),
    ],
)
def test_swapped_words(caption, changed):
    assert swapped(caption) == changed


def test_nouns_after_a_colour():
    captions = ("a red striped star and a blue ring", "two green circles", "it is red", "a star", "red and blue")
    assert heads(captions, kind="colour") == [("red", "star"), ("green", "circle"), None, None, None]


@pytest.mark.parametrize("name", CHANGES)
def test_wordings_depend_on_caption_and_seed_alone(name):
    change = CHANGES[name]
    for caption in ("a red star", "There is a star.", "x", "", "Ein Stern über 3 Ringen", "星"):
        assert change(caption, seed=3) == change(caption, seed=3)
    assert change("a picture of a large circle", seed=0) != "a picture of a large circle"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 80)])
def test_writing_changes_its_strip_only(style, size):
    image = torch.full((3, *size), 90, dtype=torch.uint8)
    for edge in ("top", "bottom"):
        written = write(image, "umbrella", style=style, edge=edge)
        assert written.shape == image.shape
        assert written.dtype == torch.uint8
        touched = (written != image).any(dim=0).any(dim=1)
        assert touched.any()
        if style != "watermark" or size[0] != size[1]:
            half = touched[: size[0] // 2] if edge == "bottom" else touched[size[0] // 2 :]
            assert not half.any()
    assert (image == 90).all()


def test_bars_share_one_track():
    drawn, mark = draw_bars(Bars("b", (Bar("a", 0.5, 0.4, 0.6), Bar("c", -0.5)), "number", 0.0, "nothing"))
    assert drawn[0].left == mark
    assert drawn[1].left == 0
    assert drawn[1].width == mark
    assert drawn[0].whisker[0] == pytest.approx(100 * 0.9 / 1.1, abs=0.1)


def test_figures_know_their_uncertainty():
    hits = torch.tensor([True] * 30 + [False] * 70)
    figure = share("x", hits)
    assert figure.low < 0.3 == figure.value < figure.high
    values = torch.arange(100.0)
    found = mean("x", values)
    assert found.low < 49.5 < found.high


def test_a_word_that_grows_in_small_letters():
    """``'İ'.lower()`` has two letters."""
    for caption in ("İİİ", "İi dog", "İİİİ", "aİİİ", "İSTANBUL"):
        for seed in range(40):
            assert isinstance(CHANGES["with typing errors"](caption, seed=seed), str)
    assert CHANGES["with typing errors"]("İİ a", seed=0) == "İİ a"  # two letters get no error
