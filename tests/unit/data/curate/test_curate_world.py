"""MetaCLIP 2: lists by language, wrapping by script, thresholds of equal share, metadata of one language, the step."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pytest

from tether.core.errors import InputError
from tether.data.curate import SubstringMatcher, tail_share
from tether.data.curate.metaclip.spacing import is_joined, wrapped
from tether.methods.metaclip2 import (
    LanguageNgrams,
    WorldBalancer,
    WorldCurator,
    WorldMatcher,
    build_language_metadata,
    choose_text,
)
from tether.methods.metaclip2.metadata import LONGEST, Caps, simple_tokens, without_tags

ENTRIES = {"en": ["dog", "hot dog", "cat"], "zh": ["狗", "红色", "AI"], "other": ["dog", "chien"]}


def pairs(rows: list[tuple[str | None, str | None]]) -> pa.RecordBatch:
    texts, languages = zip(*rows, strict=True)
    keys = [f"row {place}" for place in range(len(rows))]
    columns = {"key": keys, "text": pa.array(texts, pa.string()), "lang": pa.array(languages, pa.string())}
    return pa.record_batch(columns)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("dog", " dog "),
        ("狗", "狗"),
        ("狗 AI", "狗 AI "),
        ("#1", "#1 "),
        ("(x)", "(x)"),
        ("タワー", " タワー "),
        ("개", " 개 "),
        ("été", " été "),
        ("e\u0301", " e\u0301 "),
        ("של", " של "),
        (" 狗", "  狗"),
    ],
)
def test_wrapping_by_script(entry, text):
    assert wrapped(entry) == text


def test_scripts_that_set_no_blanks():
    assert all(map(is_joined, "狗หລကខཀ。「(#"))
    assert not any(map(is_joined, "aéñのタ개שع🙂¿1 "))


@pytest.mark.parametrize("backend", ["ngram", "ahocorasick", "naive"])
def test_joined_words_are_found_inside_running_text_and_katakana_is_not(backend):
    matcher = SubstringMatcher(["東京", "タワー", "dog", "。"], wrap="script", backend=backend)
    assert matcher.match("東京タワーの写真。") == [0, 3]
    assert matcher.match("東京 タワー") == [0, 1]
    assert matcher.match("dog，cat") == []  # a full-width mark is not set apart
    assert matcher.match("犬dog") == []
    assert matcher.match("狗" * 500_000 + "東京") == [0]
    assert matcher.match("\udcff東京") == [0]
    assert SubstringMatcher(["東京"], backend=backend).match("東京タワー") == []


@pytest.mark.parametrize("backend", ["ngram", "ahocorasick", "naive"])
def test_normal_forms_are_not_mixed(backend):
    matcher = SubstringMatcher(["\u00e9t\u00e9"], wrap="script", backend=backend)
    assert matcher.match("l \u00e9t\u00e9") == [0]
    assert matcher.match("l e\u0301te\u0301") == []


def test_last_of_a_repeated_entry():
    for backend in ("ngram", "ahocorasick", "naive"):
        matcher = SubstringMatcher(
            ["狗", "cat", "狗", "dog", "cat"], wrap="script", backend=backend, on_duplicate="last"
        )
        assert matcher.match("狗 dog cat") == [2, 3, 4]
        assert matcher.match_many(["狗 dog cat", "狗"])[1].tolist() == [2, 3, 4, 2]
    with pytest.raises(InputError, match="on_duplicate: expected 'raise', 'first' or 'last', got 'both'"):
        SubstringMatcher(["a"], on_duplicate="both")  # pyrefly: ignore


def test_each_caption_meets_the_list_of_its_language():
    matcher = WorldMatcher(ENTRIES)
    texts = ["a hot dog", "红色的狗", "un chien", "dog", None, "狗", "AI"]
    languages = ["en", "zh", "fr", None, "en", "en", ""]
    found = matcher.match_many(texts, languages=languages)
    assert [row.tolist() for row in np.split(found.ids, found.indptr[1:-1])] == [[0, 1], [0, 1], [1], [0], [], [], []]
    assert [found.codes[code] for code in found.code] == ["en", "zh", "other", "other", "en", "en", "other"]
    assert found.fell_back.tolist() == [False, False, True, True, False, False, True]
    assert matcher.fell_back == {"fr": 1, "": 2}
    counts = found.counts()
    assert {code: each.tolist() for code, each in counts.items()} == {"en": [1, 1, 0], "zh": [1, 1, 0], "other": [1, 1]}
    assert all(each.dtype == np.uint64 for each in counts.values())
    single = [matcher.match(text, language=language) for text, language in zip(texts, languages, strict=True)]
    assert single == [[0, 1], [0, 1], [1], [0], [], [], []]
    assert matcher.fell_back == {"fr": 2, "": 4}


@pytest.mark.parametrize("kind", ["lists", "arrays", "chunks", "dictionary"])
def test_columns_of_any_layout(kind):
    rng = random.Random(0)
    texts = [rng.choice(["a dog", "狗和猫", "chien", None, ""]) for _ in range(500)]
    languages = [rng.choice(["en", "zh", "fr", None]) for _ in range(500)]
    plain = WorldMatcher(ENTRIES).match_many(texts, languages=languages)
    given = {
        "lists": (tuple(texts), tuple(languages)),
        "arrays": (pa.array(texts, pa.large_string()), pa.array(languages, pa.large_string())),
        "chunks": (pa.chunked_array([texts[:7], texts[7:]]), pa.chunked_array([languages[:9], languages[9:]])),
        "dictionary": (pa.array(texts), pa.array(languages).dictionary_encode()),
    }[kind]
    again = WorldMatcher(ENTRIES).match_many(given[0], languages=given[1])
    assert again.ids.tolist() == plain.ids.tolist()
    assert again.indptr.tolist() == plain.indptr.tolist()
    assert again.code.tolist() == plain.code.tolist()
    empty = WorldMatcher(ENTRIES).match_many([], languages=pa.nulls(0))
    assert empty.indptr.tolist() == [0]


def test_language_map_and_missing_fallback():
    matcher = WorldMatcher(ENTRIES, language_map={"eng": "en", "cmn": "zh", "xxx": "N/A"})
    assert [matcher.code_of(language) for language in ("eng", "cmn", "xxx", "en", "", None)] == [
        "en",
        "zh",
        "other",
        "other",
        "other",
        "other",
    ]
    bare = WorldMatcher({"en": ["dog"]})
    assert bare.code_of("fr") is None
    found = bare.match_many(["dog", "dog"], languages=["en", "fr"])
    assert found.code.tolist() == [0, -1]
    assert found.ids.tolist() == [0]
    assert bare.match("dog", language="fr") == []
    assert bare.fell_back == {"fr": 2}


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({}, InputError, "the list of at least one language, got none"),
        ({"en": ["dog"], "fr": []}, InputError, "fr: entries: the metadata is empty"),
        ({"en": ["dog", ""]}, InputError, r"en: entries\[1\]: an entry must not be empty"),
        ({"en": ["dog", "dog"]}, InputError, r"en: entries\[1\]: 'dog' already stands at 0"),
        ({"en": [3]}, TypeError, r"en: entries\[0\]: expected str, got int"),
    ],
)
def test_refused_lists(entries, error, message):
    with pytest.raises(error, match=message):
        WorldMatcher(entries)


def test_refused_columns():
    matcher = WorldMatcher(ENTRIES)
    with pytest.raises(InputError, match="one for each of 2 captions, got 1"):
        matcher.match_many(["a", "b"], languages=["en"])
    with pytest.raises(TypeError, match=r"languages\[1\]: expected str or None, got int"):
        matcher.match_many(["a", "b"], languages=["en", 3])  # pyrefly: ignore
    with pytest.raises(TypeError, match="expected a column of strings, got int64"):
        matcher.match_many(["a"], languages=pa.array([1]))
    with pytest.raises(TypeError, match="expected str or None, got int"):
        matcher.match(3, language="en")  # pyrefly: ignore


def test_equal_tail_share_by_hand():
    counts = {"en": np.array([1, 2, 3, 94]), "fr": np.array([0, 10, 20, 970]), "xx": np.array([5, 5])}
    balancer = WorldBalancer(t=4).fit(counts)
    assert balancer.share_ == 0.06
    # fr: shares 0, .01, .03, 1 -> nearest to .06 is .03; xx: .5, 1 -> .5, the first of two counts of 5
    assert balancer.thresholds_ == {"en": 4, "fr": 20, "xx": 5}
    np.testing.assert_array_equal(balancer.entry_prob_["fr"], np.float32([1, 1, 1, 20 / 970]))
    assert balancer.entry_prob_["xx"].dtype == np.float32


def test_share_between_two_counts_goes_to_the_first():
    counts = {"en": np.array([1, 1, 2]), "fr": np.array([1, 1])}
    balancer = WorldBalancer(t=2).fit(counts)
    assert balancer.share_ == 0.5
    assert balancer.thresholds_["fr"] == 1
    between = WorldBalancer(t=2).fit({"en": np.array([1, 3]), "fr": np.array([0, 4, 4])})
    assert between.share_ == 0.25  # the shares of fr are 0, 1/2 and 1: 0 and 1/2 are equally near
    assert between.thresholds_["fr"] == 1  # not the 0 of the entry without a match
    np.testing.assert_array_equal(between.entry_prob_["fr"], np.float32([1, 0.25, 0.25]))


def test_share_matches_within_one_count():
    rng = np.random.default_rng(0)
    counts = {
        name: (rng.pareto(1.1, 400) * scale).astype(np.int64) for name, scale in (("en", 50), ("a", 7), ("b", 1e4))
    }
    balancer = WorldBalancer(t=80).fit(counts)
    for name in ("a", "b"):
        whole = np.sort(counts[name])
        shares = np.concatenate(([0], np.cumsum(whole))) / whole.sum()
        reached = shares[np.searchsorted(whole, balancer.thresholds_[name], side="right")]
        below = shares[np.searchsorted(whole, balancer.thresholds_[name], side="left")]
        assert below <= balancer.share_ + np.diff(shares).max()
        assert reached >= balancer.share_ - np.diff(shares).max()


def test_one_language_alone_is_metaclip():
    from tether.data.curate import Balancer

    counts = np.array([10, 40, 2, 0])
    matcher = WorldMatcher({"en": ["a", "b", "c", "d"]})
    matches = matcher.match_many(["a b", "d", "b", "b c"], languages=["en"] * 4)
    plain = Balancer(t=10).fit(counts).pair_prob(matches.indptr, matches.ids)
    np.testing.assert_allclose(WorldBalancer(t=10).fit({"en": counts}).pair_prob(matches), plain, rtol=0, atol=1e-7)


def test_pair_probability_by_hand():
    matcher = WorldMatcher(ENTRIES)
    matches = matcher.match_many(["hot dog", "狗", "nothing", "cat dog"], languages=["en", "zh", "en", "en"])
    balancer = WorldBalancer(t=5).fit({"en": np.array([10, 20, 5])})
    np.testing.assert_allclose(balancer.pair_prob(matches), [1 - 0.5 * 0.75, 1, 0, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "counts", "message"),
    [
        ({"t": 1}, {}, "reference language 'en' among them, got none"),
        ({"t": 1}, {"fr": [1]}, "reference language 'en' among them, got fr"),
        ({"t": 1, "reference": "fr"}, {"en": [1]}, "reference language 'fr'"),
        ({"t": 1}, {"en": [0, 0]}, "counts of 'en': no entry has a match"),
        ({"t": 1}, {"en": [1], "fr": [0]}, "counts of 'fr': no entry has a match"),
        ({"t": 1}, {"en": [1], "fr": [-1]}, r"counts of 'fr': counts\[0\]: expected at least 0"),
        ({"t": 1}, {"en": [1.5]}, "counts of 'en': counts: expected whole numbers"),
        ({"t": 1}, {"en": []}, "counts of 'en': counts: expected one count for each entry"),
    ],
)
def test_refused_balancing(settings, counts, message):
    with pytest.raises(InputError, match=message):
        WorldBalancer(**settings).fit(counts)


def test_balancer_state():
    counts = {"en": np.array([1, 2, 300]), "zh": np.array([7, 8, 9])}
    balancer = WorldBalancer(t=5).fit(counts)
    state = json.loads(json.dumps(balancer.state_dict()))
    other = WorldBalancer(t=5)
    other.load_state_dict(state)
    assert other.thresholds_ == balancer.thresholds_ == {"en": 5, "zh": 7}
    other.load_state_dict(WorldBalancer(t=5).state_dict())
    with pytest.raises(InputError, match=r"does not fit a balancer of .*6"):
        WorldBalancer(t=6).load_state_dict(state)
    with pytest.raises(InputError, match="no counts yet"):
        WorldBalancer(t=5).pair_prob(WorldMatcher(ENTRIES).match_many(["a"], languages=["en"]))


def test_one_text_of_an_image_as_the_released_code_draws_it():
    texts = [("a dog", "en"), ("狗", "zh"), ("chien", "fr")]
    expected = random.Random(3)
    mine = random.Random(3)
    for _ in range(20):
        assert choose_text(texts, random_state=mine) == expected.choice(texts)
    assert choose_text(texts, random_state=3) == random.Random(3).choice(texts)
    generator = np.random.default_rng(0)
    drawn = [choose_text(texts, random_state=generator) for _ in range(3000)]
    assert all(900 < drawn.count(text) < 1100 for text in texts)
    assert choose_text(["only"], random_state=np.random.RandomState(0)) == "only"
    with pytest.raises(InputError, match="at least one"):
        choose_text([], random_state=0)


POOL = (
    [("a dog", "en")] * 20 + [("a cat", "en")] * 2 + [("红色的狗", "zh")] * 9 + [("红色", "zh")] + [("le chien", "fr")]
)


def test_step_balances_every_language():
    step = WorldCurator(entries=ENTRIES, t=3, language="lang")
    rows = pairs([*POOL, ("nothing", "en"), (None, "zh")])
    chance = step.partial_fit(rows).keep(rows)
    # en: share of tail matches 2/22; zh: counts 9 and 10 of 19 -> nearest is 0, the count of AI, held at 1
    assert step.columns == ("lang",)
    assert chance[0] == pytest.approx(3 / 20)
    assert chance[20] == 1
    assert chance[22] == pytest.approx(1 - (1 - 1 / 9) * (1 - 1 / 10))
    assert chance[-3] == 1
    assert chance[-2:].tolist() == [0, 0]
    report = step.report()
    assert report["tail_share"] == pytest.approx(tail_share(np.array([20, 0, 2]), t=3))
    assert report["languages"]["en"]["rows"] == 23
    assert report["languages"]["en"]["unmatched"] == 1
    assert report["languages_without_a_list"] == {"fr": 1}
    json.dumps(report)


def test_step_takes_languages_as_pools_write_them():
    step = WorldCurator(entries=ENTRIES, t=3, language="lang")
    rows = pairs([("a dog", "EN"), ("a dog", "en-GB"), ("狗", "zh_TW"), ("chien", ""), ("chien", None)])
    assert step.partial_fit(rows).keep(rows).tolist() == [1, 1, 1, 1, 1]
    assert step.report()["without_a_list"] == {"rows": 2, "refused": 0}
    coded = rows.set_column(2, "lang", rows.column("lang").dictionary_encode())
    assert step.keep(coded).tolist() == [1, 1, 1, 1, 1]
    with pytest.raises(InputError, match="column 'lang': expected texts such as en, got int64"):
        step.keep(rows.set_column(2, "lang", pa.array([1, 2, 3, 4, 5])))


def test_step_detects_languages():
    step = WorldCurator(entries=ENTRIES, t=3)
    assert step.columns == ()
    rows = pairs([("a photo of a dog in the garden", ""), ("这是一只红色的狗在花园里", ""), ("12", "")])
    assert step.partial_fit(rows).keep(rows).tolist() == [1, 1, 0]
    assert step.rows == {"en": 1, "zh": 1, "other": 1}


def test_step_without_fallback_refuses_the_rest():
    step = WorldCurator(entries={"en": ["dog"]}, t=3, language="lang")
    rows = pairs([("dog", "en"), ("dog", "fr")])
    assert step.partial_fit(rows).keep(rows).tolist() == [1, 0]
    assert step.report()["without_a_list"] == {"rows": 1, "refused": 1}


def test_step_refuses(tmp_path):
    with pytest.raises(InputError, match=r"reference: expected a language with a list \(en, zh, other\), got 'de'"):
        WorldCurator(entries=ENTRIES, t=3, reference="de")
    step = WorldCurator(entries=ENTRIES, t=3, language="lang").partial_fit(pairs([("狗", "zh"), ("eel", "en")]))
    with pytest.raises(InputError, match="none of the 1 captions in the reference language 'en' holds any of its 3"):
        step.keep(pairs([("狗", "zh")]))
    with pytest.raises(InputError, match="expected a folder with one file for each language"):
        WorldCurator(entries=str(tmp_path / "none"), t=3)
    with pytest.raises(InputError, match="there is none"):
        WorldCurator(entries=str(tmp_path), t=3)


def test_step_reads_a_folder(tmp_path):
    (tmp_path / "en.txt").write_text("dog\nhot dog\n", encoding="utf-8")
    (tmp_path / "zh.json").write_text('["狗"]', encoding="utf-8")
    (tmp_path / "README.md").write_text("no list", encoding="utf-8")
    step = WorldCurator(entries=str(tmp_path), t=3, language="lang")
    assert step.settings["entries"] == {"en": 2, "zh": 1}
    listed = WorldCurator(entries={"en": ["dog", "hot dog"], "zh": str(tmp_path / "zh.json")}, t=3, language="lang")
    assert listed.digest == step.digest
    (tmp_path / "zh.txt").write_text("狗\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"two lists of 'zh': zh.json and zh.txt"):
        WorldCurator(entries=str(tmp_path), t=3)


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
