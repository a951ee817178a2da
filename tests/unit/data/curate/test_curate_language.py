"""The detector of languages, and the rule that keeps the wanted ones."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from tables import pairs
from tether.core.errors import InputError
from tether.data.curate import LanguageDetector, LanguageRule
from tether.data.curate.steps.language import UNKNOWN, known_languages

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
