"""MetaCLIP 2's metadata: the words of a language and the list of entries made from five sources."""

from __future__ import annotations

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data.curate import LanguageNgrams, WorldMatcher, build_language_metadata
from tether.data.curate.metaclip.multilingual_metadata import LONGEST, Caps, simple_tokens, without_tags


def test_tokens_and_tags():
    assert simple_tokens("我愛 cats, ¿sí?") == ["我", "愛", "cats", ",", "¿", "sí", "?"]
    assert simple_tokens("") == simple_tokens(" \n\u3000") == []
    assert without_tags("a <b>c</b> &lt;i&gt;d <e\n>") == "a c d <e\n>"


def test_words_of_a_language_without_blanks():
    def segment(piece: str) -> list[str]:
        return ["(x", "犬", "『猫』", " 鳥 "] if piece == "P" else [piece]

    counted = LanguageNgrams(language="ja", segment=segment).partial_fit(["P 魚", None, "。"])
    assert counted.unigrams == {"犬": 1, "鳥": 1, "魚": 1}
    assert counted.bigrams == {("鳥", "魚"): 1}
    plain = LanguageNgrams(language="fr", segment=segment).partial_fit(["P 魚"])
    assert plain.unigrams == {"P": 1, "魚": 1}


def test_ngrams_add_over_shards():
    texts = ["red dog", "red dog, red cat", "a cat"]
    whole = LanguageNgrams(language="en").partial_fit(texts)
    parts = (
        LanguageNgrams(language="en").partial_fit(texts[:1]).merge(LanguageNgrams(language="en").partial_fit(texts[1:]))
    )
    assert (parts.unigrams, parts.bigrams) == (whole.unigrams, whole.bigrams)
    assert whole.bigrams == {("red", "dog"): 2, ("red", "cat"): 1, ("a", "cat"): 1}
    assert whole.pmi(minimum=2) == {"red dog": pytest.approx(np.log2(2 * 8 / (3 * 2)))}
    with pytest.raises(InputError, match="counts of 'fr' to counts of 'en'"):
        whole.merge(LanguageNgrams(language="fr"))


def test_metadata_in_order_of_sources():
    found = build_language_metadata(
        {"dog": 5, "cat": 9, "7": 3, "eel": 5},
        language="fr",
        bigrams_pmi={"a b": 31.0, "hot dog": 40.0, "weak pair": 30.0},
        titles={"Paris": 5, "dog": 99, "Lyon": 5, "Nice": 1},
        wordnet=["chien+loup", " ", "!?", "cat", "x" * (LONGEST + 1)],
        caps=Caps(unigrams=2, titles=1),
    )
    assert list(found)[100:] == ["chienloup", "cat", "dog", "eel", "hot dog", "a b", "Paris"]
    assert [found[entry] for entry in ("0", "99", "cat", "dog", "hot dog", "Paris")] == [
        "number",
        "number",
        "wordnet",
        "unigram",
        "bigram",
        "title",
    ]
    assert WorldMatcher({"fr": list(found)}).match("hot dog in Paris", language="fr")


def test_metadata_of_a_language_without_blanks():
    found = build_language_metadata({"東": 3}, language="ja", bigrams_pmi={"東 京": 31.0}, wordnet=["犬+猫"])
    assert list(found)[100:] == ["犬猫", "東", "東京"]
    assert list(build_language_metadata({}, language="de", wordnet=["a+b"]))[100:] == ["a+b"]


def test_caps_count_new_entries_only():
    words = {str(number): 1000 - number for number in range(150)}
    assert list(build_language_metadata(words, language="de"))[100:] == [str(number) for number in range(100, 115)]
    assert len(build_language_metadata(words, language="de", caps=Caps(unigrams=0))) == 100
    assert len(build_language_metadata({"dog": 1}, language="de", titles={"Berlin": 1})) == 102
