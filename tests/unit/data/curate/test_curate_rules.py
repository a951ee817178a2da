"""Rules about captions and pictures, and the step that tidies captions."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tables import encoded, pairs
from tether.core.errors import InputError
from tether.data.curate import ImageSize, TextRules, TidyText
from tether.data.curate.steps.characters import code_points, is_kind, longest_run, totals
from tether.data.curate.steps.image_size import image_size

FREE = {
    "characters": (0, 10**7),
    "words": (0, 10**7),
    "letters": 0.0,
    "run": None,
    "addresses": "keep",
    "markup": "keep",
    "broken": "keep",
}
GOOD = [
    "a red fox",
    "Ein Fuchs, schläft.",
    "一只红色的狐狸",
    "ثعلب أحمر صغير",
    "एक छोटी लाल लोमड़ी",
    "cafe\u0301 at night",
    "R&D team, 3 < 5 foxes",
    "ver. 2.0: the fox",
    "the fox says 'Ã la carte' at 5 p.m.",
    "a fox\tand\na dog",
]


def passed(texts, **rules) -> list[bool]:
    return TextRules(**{**FREE, **rules}).keep(pairs(texts)).astype(bool).tolist()


def test_ordinary_captions_pass_the_default_rules():
    assert TextRules().keep(pairs(GOOD)).tolist() == [1.0] * len(GOOD)


def test_a_pair_without_a_caption_passes_none():
    assert passed([None, ""]) == [False, True]
    assert TextRules().keep(pairs([None, "", " "])).tolist() == [0, 0, 0]


def test_lengths_are_in_characters_and_words():
    assert passed(["ab", "abc", "狐狸狐", "abcd", "abcde"], characters=(3, 4)) == [False, True, True, True, False]
    texts = ["", "one", " one ", "one two", "one\u3000two\nthree", "a b c d"]
    assert passed(texts, words=(1, 3)) == [False, True, True, True, True, False]
    assert passed(["a", "ab"], words=(2, 9)) == [False, False]  # the end of one is no gap in the next


def test_letters_are_a_share_of_what_is_not_white():
    texts = ["12345", "a1", "a 1 2 3", "लोमड़ी", "\u0301\u0301", "🙂 fox", "   ", "x" * 3 + "1" * 7]
    assert passed(texts, letters=0.3) == [False, True, False, True, False, True, False, True]
    assert passed(texts, letters=1.0) == [False, False, False, True, False, False, False, False]
    assert passed(["", "1"], letters=0.0) == [True, True]


def test_runs_end_with_their_caption():
    texts = ["aaa", "aaab", "aaaa", "a", "", "aa", "aa", "🙂🙂🙂🙂"]
    assert passed(texts, run=3) == [True, True, False, True, True, True, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "see https://a.example/b",
        "HTTP://x",
        "www.foxes.de here",
        "mail fox@den.org",
        "IMG_0031.JPG",
        "fox.png",
        "buy at foxes.com now",
        "index.html",
    ],
)
def test_addresses_and_file_names_are_dropped(text):
    assert passed([text, "a fox"], addresses="drop") == [False, True]
    assert passed([text]) == [True]


@pytest.mark.parametrize("text", ["<b>fox</b>", "a<br/>fox", "fox &amp; dog", "fox&#39;s", "fox&#x27;s", "<!-- x -->"])
def test_markup_is_dropped(text):
    assert passed([text, "a < b & c > d; e"], markup="drop") == [False, True]


@pytest.mark.parametrize("text", ["caf\ufffd", "cafÃ©", "foxâ€™s", "a\x00b", "Â£5 fox", "a\x1bb", "a\x93b", "\x7f"])
def test_broken_text_is_dropped(text):
    assert passed([text, "a\tb\r\nc", "Ãrvore", "château"], broken="drop") == [False, True, True, True]


def test_huge_captions_pass_in_portions():
    texts = ["fox " * 250_000, "a fox", "x" * 1_000_001, *GOOD] * 3
    expected = [True, True, False, *[True] * len(GOOD)] * 3
    assert passed(texts, characters=(1, 1_000_000), words=(1, 300_000), letters=0.3) == expected


@given(st.lists(st.text(max_size=12), max_size=8))
def test_characters_are_counted_as_python_counts_them(texts):
    points, starts = code_points(pa.array(texts, pa.string()))
    assert np.diff(starts).tolist() == list(map(len, texts))
    letters = [sum(unicodedata.category(sign)[0] == "L" for sign in text) for text in texts]
    assert totals(is_kind("L")[points], starts).tolist() == letters
    runs = []
    for text in texts:
        longest = run = 0
        for at, sign in enumerate(text):
            run = run + 1 if at and text[at - 1] == sign else 1
            longest = max(longest, run)
        runs.append(longest)
    assert longest_run(points, starts).tolist() == runs


@given(st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=8))
def test_a_caption_passes_alone_as_it_does_among_others(texts):
    rules = TextRules(characters=(0, 15))
    whole = rules.keep(pairs(texts)).tolist()
    assert whole == [rules.keep(pairs([text]))[0] for text in texts]
    words = [text is not None and 1 <= len(text.split()) <= 2 for text in texts]
    assert passed(texts, words=(1, 2)) == words


def test_limits_that_cross_are_refused():
    with pytest.raises(InputError, match="characters: expected least and most"):
        TextRules(characters=(5, 4))


# tidy


def tidied(texts, **settings) -> list[str | None]:
    lists = TidyText(**settings).map(pairs(texts)).to_pylist()
    assert all(len(each) == 1 for each in lists)
    return [each[0] for each in lists]


def test_captions_are_tidied():
    texts = [
        "cafe\u0301",
        " a \u00a0\u3000 b\r\n",
        "a\x00b\ufeff",
        "<b>R&amp;D</b><br>team",
        "1 &lt; 2",
        None,
        "",
        "\t",
        "&lt;b&gt;a cat&lt;/b&gt; sits",
        "a \x1b b",
        "e\u200b\u0301",
    ]
    assert tidied(texts) == ["café", "a b", "ab", "R&D team", "1 < 2", None, "", "", "a cat sits", "a b", "é"]
    assert tidied(["<b>x</b> &amp;"], markup="keep") == ["<b>x</b> &amp;"]
    assert tidied(["ﬁne ｆｏｘ"]) == ["ﬁne ｆｏｘ"]
    assert tidied(["ﬁne ｆｏｘ"], form="NFKC") == ["fine fox"]
    assert tidied(["ن\u200cم", "👩\u200d🚀"]) == ["ن\u200cم", "👩\u200d🚀"]  # joiners spell words and emoji
    assert tidied([]) == []


@given(st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=6))
def test_tidying_twice_changes_nothing(texts):
    once = tidied(texts, markup="keep")
    assert tidied(once, markup="keep") == once
    assert all(text is None or unicodedata.is_normalized("NFC", text) for text in once)


# pictures


def blank(size, kind="PNG", **options) -> bytes:
    return encoded(Image.new("RGB", size), kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_size_is_read_from_the_header(kind):
    data = blank((70, 33), kind)
    assert image_size(data) == (70, 33)
    if kind in ("PNG", "JPEG"):
        assert image_size(data[: len(data) * 3 // 4]) == (70, 33)  # pixels are not looked at


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"x" * 40]
)
def test_what_is_no_picture_has_no_size(data):
    assert image_size(data) == (0, 0)


def sized(pictures, **rules) -> list[bool]:
    batch = pairs(["x"] * len(pictures), image=pa.array(pictures, pa.binary()))
    return ImageSize(**rules).keep(batch).astype(bool).tolist()


def test_pictures_are_measured():
    pictures = [blank(size) for size in ((32, 32), (31, 90), (90, 31), (96, 32), (97, 32), (400, 400))]
    assert sized(pictures) == [True, False, False, True, False, True]
    assert sized(pictures, most_side=399) == [True, False, False, True, False, False]
    assert sized(pictures, most_aspect=None, least_side=1) == [True] * 6
    assert sized([None, b"no"]) == [True, False]
    assert sized([None, b"no"], missing="drop", unreadable="keep") == [False, True]
    assert sized([]) == []
    assert ImageSize().keep(pairs(["x"], image=pa.nulls(1))).tolist() == [1]
    large = pairs(["x"] * 6, image=pa.array(pictures, pa.large_binary()))
    assert ImageSize().keep(large).astype(bool).tolist() == sized(pictures)
    marked = Image.Exif()
    marked[0x010E] = "x" * 5000  # a header longer than what is looked at first
    assert sized(
        [
            blank((32, 32), "JPEG", exif=marked),
            blank((31, 32), "JPEG", exif=marked),
        ]
    ) == [True, False]


def test_wrong_sizes_are_refused():
    with pytest.raises(InputError, match="at least least_side=9, got 8"):
        ImageSize(least_side=9, most_side=8)
    with pytest.raises(InputError, match="expected a column 'image', got key, text"):
        ImageSize().keep(pairs(["x"]))
