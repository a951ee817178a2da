"""Official MetaCLIP 2 code against ``tether.data.curate``: wrapping, matches, n-grams, thresholds, probabilities."""

from __future__ import annotations

import re

import numpy as np
import pytest
from loading import load

from tether.data.curate import SubstringMatcher
from tether.data.curate.metaclip.balance import tail_share, threshold_for_share
from tether.data.curate.metaclip.matcher import Backend
from tether.data.curate.metaclip.spacing import WITHOUT_BLANKS, is_joined, is_mark, spaced, wrapped
from tether.methods.metaclip2 import LanguageNgrams, WorldBalancer, WorldMatcher, WorldMatches
from tether.methods.metaclip2.metadata import simple_tokens, without_tags

VECTORS = load("metaclip2")
META = VECTORS.meta
TOLERANCE = float((re.search(r"probabilities (\S+)", META.get("tolerance", "")) or ["", "1e-7"])[1])
LANGUAGES = META.get("langs", {})
NGRAMS = META.get("ngrams", [])
COUNTED = sorted(name.removeprefix("counts_") for name in VECTORS.arrays if name.startswith("counts_"))
REFERENCE = "en"
BACKENDS: tuple[Backend, ...] = ("auto", "ngram", "ahocorasick", "naive")


def counts() -> dict[str, np.ndarray]:
    return {language: VECTORS[f"counts_{language}"] for language in COUNTED}


def balancer() -> WorldBalancer:
    if REFERENCE not in COUNTED or "t_en" not in META:
        pytest.skip("no counts of the reference language in these vectors")
    return WorldBalancer(t=META["t_en"], reference=REFERENCE).fit(counts())


def check_threshold(language: str) -> None:
    """Where the official threshold is 0, the official probabilities are 0 / 0."""
    if META.get("t_lang", {}).get(language) == 0:
        pytest.skip("a threshold of 0")


def test_which_characters_need_no_blank():
    VECTORS.need("cp", "cp_is_cjk_or_punct", "cp_is_punct")
    characters = [chr(point) for point in VECTORS["cp"]]
    assert [is_joined(character) for character in characters] == VECTORS["cp_is_cjk_or_punct"].tolist()
    assert [is_mark(character) for character in characters] == VECTORS["cp_is_punct"].tolist()


@pytest.mark.parametrize("language", LANGUAGES)
def test_wrapping_and_spacing(language):
    case = LANGUAGES[language]
    assert list(map(wrapped, case["entries"])) == case["spaced_entries"]
    assert list(map(spaced, case["captions"])) == case["spaced_captions"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_matches(language, backend):
    case = LANGUAGES[language]
    matcher = SubstringMatcher(case["entries"], wrap="script", backend=backend, on_duplicate="last")
    expected = list(map(sorted, case["matched"]))
    assert [matcher.match(caption) for caption in case["captions"]] == expected
    indptr, ids = matcher.match_many(case["captions"])
    assert [row.tolist() for row in np.split(ids, indptr[1:-1])] == expected
    for every, longest in zip(expected, case.get("matched_long", []), strict=False):
        assert set(longest) <= set(every)


@pytest.mark.skipif(not LANGUAGES, reason="no captions in these vectors")
@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_of_all_languages_in_one_column(backend):
    entries = {language: case["entries"] for language, case in LANGUAGES.items()}
    matcher = WorldMatcher(entries, backend=backend, on_duplicate="last")
    rows = [
        (caption, language, sorted(found))
        for language, case in LANGUAGES.items()
        for caption, found in zip(case["captions"], case["matched"], strict=True)
    ]
    rows = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    captions, languages, expected = map(list, zip(*rows, strict=True))
    found = matcher.match_many(captions, languages=languages)
    assert [row.tolist() for row in np.split(found.ids, found.indptr[1:-1])] == expected
    assert [matcher.match(text, language=language) for text, language, _ in rows] == expected
    assert not matcher.fell_back


@pytest.mark.parametrize("case", NGRAMS, ids=range(len(NGRAMS)))
def test_ngrams(case):
    assert without_tags(case["text"]) == case["clean"]
    assert simple_tokens(case["clean"]) == case["tokens"]
    for rule, languages in (("en", ["en"]), ("no_space", sorted(WITHOUT_BLANKS))):
        for language in languages:
            ngrams = LanguageNgrams(language=language).partial_fit([case["text"]])
            assert dict(ngrams.unigrams) == case[rule]["unigram"]
            assert {f"{a} {b}": count for (a, b), count in ngrams.bigrams.items()} == case[rule]["bigram"]


def test_tail_share_and_thresholds():
    fitted, thresholds = balancer(), META.get("t_lang", {})
    assert fitted.share_ == pytest.approx(META["p_en"], rel=1e-12)
    assert tail_share(VECTORS[f"counts_{REFERENCE}"], t=META["t_en"]) == fitted.share_
    for language in set(COUNTED) & set(thresholds):
        if language != REFERENCE:
            found = threshold_for_share(VECTORS[f"counts_{language}"], share=fitted.share_)
            assert found == thresholds[language]
        assert fitted.thresholds_[language] == max(thresholds[language], 1)


@pytest.mark.parametrize("language", COUNTED)
def test_probabilities(language):
    VECTORS.need(f"prob_{language}")
    check_threshold(language)
    found = balancer().entry_prob_[language]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, VECTORS[f"prob_{language}"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("language", COUNTED)
def test_pair_probabilities(language):
    names = (f"sets_{language}_ptr", f"sets_{language}_ids", f"pair_prob_{language}")
    VECTORS.need(*names)
    check_threshold(language)
    indptr, ids, expected = (VECTORS[name] for name in names)
    n = len(expected)
    matches = WorldMatches(
        codes=(language,),
        code=np.zeros(n, np.int64),
        indptr=indptr,
        ids=ids,
        sizes=(len(VECTORS[f"counts_{language}"]),),
        fell_back=np.zeros(n, np.bool_),
    )
    found = balancer().pair_prob(matches)
    # Products of float32 numbers lose half a unit in the last place at each factor.
    rounding = np.finfo(expected.dtype).eps * (1 + np.diff(indptr).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE + rounding)
