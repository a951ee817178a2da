"""Rules about captions, their languages and images, and the step that tidies captions."""

from __future__ import annotations

import pickle
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tables import encoded, pairs
from tether.core.errors import InputError
from tether.data.curate import Decodes, ImageSize, LanguageDetector, LanguageRule, TextRules, TidyText
from tether.data.curate.steps.characters import code_points, is_kind, longest_run, totals
from tether.data.curate.steps.image_size import image_size
from tether.data.curate.steps.language import UNKNOWN, known_languages

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


def test_a_letter_at_the_end_is_not_read_with_the_next_caption():
    assert passed(["SÃ", "£5 a fox", "Â", "\x80"], broken="drop") == [True, True, True, False]


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


# images


def blank(size, kind="PNG", **options) -> bytes:
    return encoded(Image.new("RGB", size), kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_size_is_read_from_the_header(kind):
    data = blank((70, 33), kind)
    assert image_size(data) == (70, 33)
    if kind in ("PNG", "JPEG"):
        assert image_size(data[: len(data) * 3 // 4]) == (70, 33)  # pixels are not looked at


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"x" * 40]
)
def test_what_is_no_image_has_no_size(data):
    assert image_size(data) == (0, 0)


def sized(images, **rules) -> list[bool]:
    batch = pairs(["x"] * len(images), image=pa.array(images, pa.binary()))
    return ImageSize(**rules).keep(batch).astype(bool).tolist()


def test_images_must_decode_to_their_last_pixel():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    whole = [blank((200, 90)), *(encoded(noise, kind) for kind in ("JPEG", "PNG", "WEBP"))]
    cut = [image[: len(image) * 9 // 10] for image in whole[1:]]
    batch = pairs(["x"] * 9, image=pa.array([*whole, *cut, b"no", None], pa.binary()))
    assert Decodes().keep(batch).tolist() == [1] * 4 + [0] * 4 + [1]
    assert Decodes(missing="drop").keep(batch).tolist() == [1] * 4 + [0] * 5
    assert sized(cut[:2]) == [True] * 2  # which headers cannot tell


def test_images_are_measured():
    images = [blank(size) for size in ((32, 32), (31, 90), (90, 31), (96, 32), (97, 32), (400, 400))]
    assert sized(images) == [True, False, False, True, False, True]
    assert sized(images, most_side=399) == [True, False, False, True, False, False]
    assert sized(images, most_aspect=None, least_side=1) == [True] * 6
    assert sized([None, b"no"]) == [True, False]
    assert sized([None, b"no"], missing="drop", unreadable="keep") == [False, True]
    assert sized([]) == []
    assert ImageSize().keep(pairs(["x"], image=pa.nulls(1))).tolist() == [1]
    large = pairs(["x"] * 6, image=pa.array(images, pa.large_binary()))
    assert ImageSize().keep(large).astype(bool).tolist() == sized(images)
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


SENTENCES = {
    "en": "a small red fox is sleeping in the garden behind the house",
    "de": "ein kleiner roter Fuchs schläft im Garten hinter dem Haus",
    "fr": "un petit renard roux dort dans le jardin derrière la maison",
    "ru": "маленькая рыжая лиса спит в саду за домом",
    "zh": "一只红色的小狐狸在房子后面的花园里睡觉",
    "ar": "ثعلب أحمر صغير ينام في الحديقة خلف المنزل",
    "hi": "एक छोटी लाल लोमड़ी घर के पीछे बगीचे में सो रही है",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_sentences_are_named(code):
    found, score = LanguageDetector().detect(SENTENCES[code])
    assert found == code
    assert 0.5 < score <= 1


@pytest.mark.parametrize("text", [None, "", " \n\t ", "42 % !!", "...", "🙂🙂", "\u0301", "\x00"])
def test_a_text_without_a_letter_has_no_language(text):
    assert LanguageDetector().detect(text) == (UNKNOWN, 0.0)


def test_a_text_is_read_alike_wherever_it_stands():
    texts = [*SENTENCES.values(), None, "", "42"] * 3
    detector = LanguageDetector()
    whole = detector.detect_many(pa.array(texts))
    for start in range(0, len(texts), 4):
        some = detector.detect_many(pa.array(texts).slice(start, 4))
        assert some.codes.to_pylist() == whole.codes.slice(start, 4).to_pylist()
        np.testing.assert_array_equal(some.scores, whole.scores[start : start + 4])
    assert len(detector.detect_many(pa.array([], pa.string())).codes) == 0


def test_line_ends_and_capitals_do_not_matter():
    detector = LanguageDetector()
    plain = detector.detect(SENTENCES["de"])
    assert detector.detect(SENTENCES["de"].replace(" ", "\r\n")) == plain
    assert detector.detect(SENTENCES["en"].upper()) == detector.detect(SENTENCES["en"])


def test_a_huge_caption_costs_no_more_than_its_beginning():
    text = f"{SENTENCES['fr']} " * 17_000
    assert len(text) > 1_000_000
    detector = LanguageDetector()
    assert detector.detect(text) == detector.detect(text[:200])
    assert LanguageDetector(characters=1).detect("é" + "a" * 100) == LanguageDetector().detect("é")


def test_it_knows_176_languages():
    assert len(known_languages()) == 176
    assert set(SENTENCES) < known_languages()


def test_wanted_languages_are_kept():
    texts = [*SENTENCES.values(), None, "42"]
    kept = LanguageRule(languages=["de", "zh"]).keep(pairs(texts))
    assert kept.tolist() == [code in ("de", "zh") for code in SENTENCES] + [0, 0]
    kept = LanguageRule(languages="de", unknown="keep").keep(pairs(texts))
    assert kept.tolist() == [code == "de" for code in SENTENCES] + [1, 1]


def test_below_the_minimum_the_language_is_unknown():
    texts = [SENTENCES["en"], "xq zzkw"]
    assert LanguageDetector().detect(texts[1])[1] < 0.7
    for unknown, expected in (("drop", [1, 0]), ("keep", [1, 1])):
        rule = LanguageRule(languages=["en"], minimum=0.7, unknown=unknown)
        assert rule.keep(pairs(texts)).tolist() == expected


def test_a_column_of_languages_is_taken_at_its_word():
    spoken = ["en", "EN_us", "en-GB", " en ", "de", "eng", "", None, "x"]
    rule = LanguageRule(languages=["en"], column="spoken")
    assert rule.columns == ("spoken",)
    assert rule.keep(pairs(["42"] * 9, spoken=spoken)).tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    rule = LanguageRule(languages=["en"], column="spoken", unknown="keep")
    assert rule.keep(pairs(["42"] * 9, spoken=spoken)).tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 0]
    assert rule.keep(pairs(["42"] * 2, spoken=pa.nulls(2))).tolist() == [1, 1]
    coded = pa.array(spoken).dictionary_encode()
    assert rule.keep(pairs(["42"] * 9, spoken=coded)).tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 0]
    with pytest.raises(InputError, match="'spoken': expected texts such as en, got int64"):
        rule.keep(pairs(["42"], spoken=[3]))
    with pytest.raises(InputError, match="expected a column 'spoken', got key, text"):
        rule.keep(pairs(["42"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": []}, "at least one code"),
        ({"languages": ["english"]}, "two or three small letters"),
        ({"languages": ["und"]}, "two or three small letters"),
        ({"languages": ["en"], "minimum": 0.5, "column": "spoken"}, "has no scores"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        LanguageRule(**settings)


def test_a_language_that_cannot_be_detected_is_refused():
    with pytest.raises(InputError, match="the detector does not know 'xq'"):
        LanguageRule(languages=["xq"]).keep(pairs(["a fox"]))
    with pytest.raises(InputError, match="at least 1, got 0"):
        LanguageDetector(characters=0)


def test_it_travels_to_workers():
    rule = pickle.loads(pickle.dumps(LanguageRule(languages=["de"])))
    assert rule.keep(pairs([SENTENCES["de"], SENTENCES["en"]])).tolist() == [1, 0]
