"""Pages: what is drawn is where it should be, in every face, the same for the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.data.lettering.pages import CHARACTERS, FACES, DrawnPages, Face, draw_page, draw_pages, random_texts


def ink(text: str, *, seed: int = 0, face: Face = "plain", **settings: float) -> np.ndarray:
    page = draw_page(text, rng=np.random.default_rng(seed), faces=[face], **settings)  # pyrefly: ignore
    return page[..., 0] < 150


def test_faces_differ_and_each_shows_all_characters() -> None:
    pages = {face: ink("AB7", face=face, points=(24, 24), spread=0.0) for face in FACES}
    assert all(page.sum() > 50 for page in pages.values())
    assert len({page.tobytes() for page in pages.values()}) == len(FACES)
    for face in FACES:
        draw_page(CHARACTERS, rng=np.random.default_rng(0), faces=[face], size=512)


def test_spread_is_from_the_top_left() -> None:
    rows, columns = np.nonzero(ink("A", points=(12, 12), spread=0.0))
    assert rows.min() < 10
    assert columns.min() < 10
    places = {np.nonzero(ink("A", seed=seed, points=(12, 12)))[0].min() // 20 for seed in range(12)}
    assert len(places) > 2


def test_lines_lie_below_each_other() -> None:
    rows = np.nonzero(ink("AA\nBB\nCC", points=(16, 16), spread=0.0).any(1))[0]
    assert (np.diff(rows) > 1).sum() == 2


def test_letters_are_smaller_where_they_do_not_fit() -> None:
    columns = np.nonzero(ink("M" * 20, points=(24, 24)).any(0))[0]
    assert 90 < columns.max() - columns.min() < 128
    with pytest.raises(InputError, match="does not fit"):
        draw_page("M" * 100, rng=np.random.default_rng(0))


def test_a_page_depends_on_its_text_and_number_alone() -> None:
    one, other = draw_pages(["A", "B"], seed=1), draw_pages(["A", "C"], seed=1)
    assert torch.equal(one.image[0], other.image[0])
    assert not torch.equal(one.image[1], other.image[1])
    assert one.texts == ("A", "B")
    assert len(one) == 2


def test_texts_are_words_or_random() -> None:
    strings = random_texts(50, lengths=(2, 5), words=0.0)
    assert all(2 <= len(text) <= 5 and set(text) <= set(CHARACTERS) for text in strings)
    assert any(set(text) & set("0123456789") for text in strings)
    known = random_texts(50, lengths=(3, 6), words=1.0, seed=1)
    assert all(text.isalpha() and text.isupper() and len(text) <= 6 for text in known)
    assert max(text.count("\n") for text in random_texts(20, lines=(1, 3))) == 2
    assert random_texts(5, seed=3) == random_texts(5, seed=3) != random_texts(5, seed=4)


def test_refuses() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="something to write"):
        draw_page(" \n ", rng=rng)
    with pytest.raises(InputError, match="least and most"):
        draw_page("A", rng=rng, points=(20, 10))
    with pytest.raises(InputError, match="has no"):
        draw_page("漢", rng=rng, faces=["plain"])
    with pytest.raises(InputError, match="least and most"):
        random_texts(1, lengths=(5, 2))
    with pytest.raises(InputError, match="one for each"):
        DrawnPages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ("A",))
