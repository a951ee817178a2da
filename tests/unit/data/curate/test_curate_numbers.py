"""Classes counted in captions, rare ones cut; numbers out of captions, rows by their scores, and the filter of both."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import encoders
from tether.core.errors import InputError, UnsupportedModelError
from tether.data.curate import NumberMask, mask_numbers, number_effect, number_ratio, subsets_by, top_rows
from tether.data.curate.steps.score_selection import rows_from, select_unparroted
from tether.data.images import load
from tether.methods.beyond_tail.concepts import IMAGENET_NEGATIVES, concept_frequency, names_of, trim_tail, words_of
from tether.models import create
from tether.tasks.curate.score_filter import ScoreFilter
from tether.tasks.curate.scorer import ClipScorer


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("Tench", ["tench"]),
        ("ram or tup", ["ram", "tup"]),
        ("T-shirt / jersey", ["t-shirt", "jersey"]),
        ("hot dog (food)", ["hot dog"]),
        ("horse", ["horse"]),
        ("meteor shower", ["meteor shower"]),
        (["Crane", "crane (bird) or heron"], ["crane", "crane  or heron"]),
    ],
)
def test_names_of_a_class(given, names):
    assert names_of(given) == names


def test_words():
    assert words_of("Don't hot-dog, ÉTÉ 42!") == ["don", "t", "hot", "dog", "t"]
    assert words_of(None) == words_of("42 ...") == []
    assert words_of("Two Dogs", lemmatise=lambda word: word.removesuffix("s")) == ["two", "dog"]


def test_a_caption_counts_once_for_a_class_and_for_several_classes():
    captions = ["a hot DOG and a dog", "dog is hot", "dogs", "horse, dog", None, "", "or"]
    found = concept_frequency(captions, class_names=["dog or horse", "hot dog", "horse", "whale"])
    assert found.tolist() == [3, 2, 1, 0]
    assert found.dtype == np.int64
    assert concept_frequency(pa.array(captions), class_names=["dog"]).tolist() == [3]
    assert concept_frequency(pa.chunked_array([captions]), class_names=["dog"]).tolist() == [3]
    lemmas = concept_frequency(captions, class_names=["dogs"], lemmatise=lambda word: word.removesuffix("s"))
    assert lemmas.tolist() == [4]


def test_words_of_another_meaning():
    captions = ["a crane in the harbour", "a crane by the water", "a ram", "ram with random noise", "access ram"]
    plain = concept_frequency(captions, class_names=["crane", "ram or tup"])
    strict = concept_frequency(captions, class_names=["crane", "ram or tup"], negatives=IMAGENET_NEGATIVES)
    assert plain.tolist() == [2, 3]
    assert strict.tolist() == [1, 1]


def test_shards_add():
    captions = ["a dog", "a horse", "dog", "hot dog"]
    names = ["dog", "horse", "hot dog"]
    parts = concept_frequency(captions[:2], class_names=names) + concept_frequency(captions[2:], class_names=names)
    assert parts.tolist() == concept_frequency(captions, class_names=names).tolist()


def test_a_long_caption_and_strange_scripts():
    found = concept_frequency(["dog " * 300_000, "狗 dog", "\u202edog", "d\u0301og"], class_names=["dog"])
    assert found.tolist() == [3]


def test_classes_without_a_letter_are_refused_and_empty_alternatives_left_out():
    with pytest.raises(InputError, match=r"class_names\[1\]: expected a name with a letter from a to z, got '\(x\)'"):
        concept_frequency([], class_names=["dog", "(x)"])
    assert concept_frequency(["a cat"], class_names=["dog or (animal)"]).tolist() == [0]
    with pytest.raises(InputError, match="many texts, got one str"):
        concept_frequency("dog", class_names=["dog"])


LABELS = np.array([0, 1, 0, 2, 0, 1, 3, 1, 0, 3])


def test_rarest_classes_are_cut():
    kept = trim_tail(LABELS, rarest=2, at_most=1, generator=np.random.default_rng(0))
    assert np.bincount(LABELS[kept], minlength=4).tolist() == [4, 3, 1, 1]
    assert (np.diff(kept) > 0).all()
    gone = trim_tail(LABELS, rarest=2, at_most=0, generator=np.random.default_rng(0))
    assert set(LABELS[gone]) == {0, 1}
    assert trim_tail(LABELS, rarest=0, at_most=0, generator=np.random.default_rng(0)).tolist() == list(range(10))
    assert trim_tail(LABELS, rarest=4, at_most=9, generator=np.random.default_rng(0)).tolist() == list(range(10))


def test_classes_without_a_row_are_the_rarest_and_ties_go_to_the_first():
    kept = trim_tail([0, 1, 2], rarest=2, at_most=0, generator=np.random.default_rng(0), classes=4)
    assert kept.tolist() == [1, 2]
    assert trim_tail([], rarest=0, at_most=0, generator=np.random.default_rng(0)).tolist() == []


def test_which_rows_stay_is_chance():
    labels = np.zeros(20, np.int64)
    kept = {trim_tail(labels, rarest=1, at_most=1, generator=np.random.default_rng(seed)).item() for seed in range(40)}
    assert len(kept) > 8


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0.5], {"rarest": 1, "at_most": 1}, "labels: expected whole numbers"),
        ([[0]], {"rarest": 1, "at_most": 1}, "labels: expected whole numbers"),
        ([-1], {"rarest": 0, "at_most": 1}, "labels: expected 0 to"),
        ([3], {"rarest": 1, "at_most": 1, "classes": 3}, "labels: expected 0 to 2, got 3 to 3"),
        ([0, 1], {"rarest": 3, "at_most": 1}, "rarest: expected 0 to 2, the number of classes, got 3"),
    ],
)
def test_refused_cuts(labels, settings, message):
    with pytest.raises(InputError, match=message):
        trim_tail(labels, generator=np.random.default_rng(0), **settings)


NO_DIGITS = st.text(st.characters(exclude_categories=["Nd", "Cs"]), max_size=30)


@given(NO_DIGITS, st.sampled_from(["number", "token"]))
def test_a_caption_without_numbers_keeps_its_words(text, mode):
    assert mask_numbers(text, mode=mode).split() == text.split()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_digit_is_left_and_masking_twice_changes_nothing(text):
    for mode in ("number", "token"):
        once = mask_numbers(text, mode=mode)
        assert not any(map(str.isdecimal, once))
        assert mask_numbers(once, mode=mode) == once


@pytest.mark.parametrize(
    ("text", "number", "token"),
    [
        ("three dogs", "three dogs", "three dogs"),  # number words carry meaning
        ("no. 4417, $5", "no. , $", "no."),  # stubs stay
        ("4K and mp3", "K and mp", "and"),
        ("عام ٢٠٢٤", "عام", "عام"),  # digits of any script
        ("x²", "x²", "x²"),  # a superscript is no digit
        ("", "", ""),
    ],
)
def test_what_goes_and_what_stays(text, number, token):
    assert mask_numbers(text) == number
    assert mask_numbers(text, mode="token") == token


def test_own_pattern_spares_model_years():
    assert mask_numbers("Mustang 1967, lot 12", pattern=r"\b\d{1,2}\b") == "Mustang 1967, lot"


@pytest.mark.parametrize("pattern", ["(", r"\d*", "", 5])
def test_pattern_that_is_none_is_refused(pattern):
    with pytest.raises(InputError, match="pattern"):
        mask_numbers("a 1", pattern=pattern)


def test_wrong_captions_are_refused():
    for call in (mask_numbers, number_ratio):
        with pytest.raises(TypeError, match="caption: expected str, got NoneType"):
            call(None)


def test_ratio_counts_what_is_not_blank():
    assert number_ratio("ab 12\t34") == 4 / 6
    assert number_ratio(" \n") == number_ratio("") == 0


def test_mask_step_leaves_a_null_alone():
    rows = pa.record_batch({"key": ["a", "b"], "text": pa.array([None, "12"], pa.string())})
    assert NumberMask().map(rows).to_pylist() == [[None], [""]]


@given(st.lists(st.integers(0, 5), max_size=40), st.floats(0.01, 1))
def test_top_rows_are_the_best_and_ties_go_to_the_smaller_row(scores, fraction):
    kept = top_rows(np.array(scores, float), fraction=fraction).tolist()
    assert kept == sorted(
        sorted(range(len(scores)), key=lambda row: (-scores[row], row))[: int(fraction * len(scores))]
    )


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), True, "0.4"])
def test_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match="fraction"):
        top_rows(np.zeros(3), fraction=fraction)
    with pytest.raises(InputError, match="fraction"):
        ScoreFilter(lambda images, texts: np.zeros(len(texts)), fraction=fraction)


def test_scores_that_are_no_numbers_are_refused():
    for scores in ([0.1, float("nan")], [float("inf")], [[0.1]], ["a"]):
        with pytest.raises(InputError, match="scores"):
            top_rows(scores, fraction=0.5)
        with pytest.raises(InputError, match="scores"):
            ScoreFilter(lambda images, texts: texts).select(scores)


def test_a_threshold_of_zero_is_a_threshold():
    kept = ScoreFilter(lambda images, texts: np.array([-0.1, 0.0, 0.1]), threshold=0.0)
    assert kept.select(kept.score([b""] * 3, ["a"] * 3)).tolist() == [1, 2]
    assert kept.report().lowest == 0
    assert rows_from(np.array([-1.0, 0.0]), threshold=0).tolist() == [1]
    with pytest.raises(InputError, match="fraction or threshold"):
        ScoreFilter(lambda images, texts: texts, threshold=0.0, fraction=0.4)
    with pytest.raises(InputError, match="threshold"):
        ScoreFilter(lambda images, texts: texts, threshold=float("nan"))


def test_subsets_part_the_rows():
    values = np.array([0, 1, 2, 3, 1])
    parts = subsets_by(values, edges=[1, 3])
    assert [part.tolist() for part in parts] == [[0], [1, 2, 4], [3]]
    for edges in ([], [2, 1], [1, 1]):
        with pytest.raises(InputError, match="edges"):
            subsets_by(values, edges=edges)


def test_selection_without_text_is_strict_and_checks_its_input():
    assert select_unparroted([0, 0], clip_score=[0.3, 0.31]).tolist() == [1]
    assert select_unparroted([True, False], clip_score=[1, 1], aesthetic=[9, 9]).tolist() == [1]
    assert select_unparroted([], clip_score=[]).tolist() == []
    assert select_unparroted([0], clip_score=[0.1], least_clip_score=0).tolist() == [0]
    for wrong in ({"clip_score": [float("nan")]}, {"clip_score": [1, 2]}, {"clip_score": [1], "aesthetic": [np.inf]}):
        with pytest.raises(InputError):
            select_unparroted([0], **wrong)
    with pytest.raises(InputError, match="has_text"):
        select_unparroted([2], clip_score=[1])


def test_effect_of_numbers():
    texts = ["a", "b 1", "c 12", "d 123"]
    raw, masked = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.1, 0.1, 0.1])
    found = number_effect(texts, raw=raw, masked=masked, fraction=0.5)
    assert found.spearman == pytest.approx(1)
    assert found.changed == 1  # the plain filter keeps rows 2 and 3, the masked one the first two of equal scores
    assert np.isnan(number_effect(["a", "b"], raw=[1, 2], masked=[1, 1]).spearman)
    assert number_effect([], raw=[], masked=[]).changed == 0
    with pytest.raises(InputError, match="one score for each text"):
        number_effect(texts, raw=raw[:3], masked=masked)


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=0).eval()


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("kind", [encoders.open_clip, encoders.transformers])
def test_scores_of_other_libraries_models(kind, some_images, tmp_path):
    other = kind(tmp_path)
    scores = ClipScorer(other)(some_images, ["a red cat"] * 3 + ["dog"] * 3)
    assert np.abs(scores).max() <= 1
    assert len(set(scores.tolist())) > 1


@pytest.fixture(scope="module")
def some_images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (6, 40, 32, 3), dtype=np.uint8))


def test_scores_are_cosines_whatever_form_the_images_have(model, some_images, tmp_path):
    texts = ["a", "b 1", "c", "a", "", "b"]
    scores = ClipScorer(model)(some_images, texts)
    pixels = torch.stack([load(image, model.image_spec) for image in some_images])
    with torch.inference_mode():
        words = model.encode_text(model.tokenizer(texts)).unit
        expected = (model.encode_image(pixels).unit * words).sum(dim=1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(ClipScorer(model)(pixels, texts), expected, atol=1e-6)
    Image.fromarray(some_images[0]).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    np.testing.assert_allclose(ClipScorer(model)([path, path.read_bytes()], ["a", "a"]), scores[[0, 0]], atol=1e-6)


def test_nothing_is_encoded_twice(model, some_images, monkeypatch):
    scorer = ClipScorer(model)
    seen: list[int] = []
    plain = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda pixels, **rest: seen.append(len(pixels)) or plain(pixels, **rest))
    texts = ["a 1", "b", "c", "d", "e", "f"]
    raw = ScoreFilter(scorer).score(some_images, texts)
    masked = ScoreFilter(scorer, text_transform=[mask_numbers]).score([*some_images[:5], some_images[0]], texts)
    assert seen == [6]
    assert raw[1] == masked[1]
    assert raw[0] != masked[0]
    scorer.remembered = 0
    scorer(some_images, texts)
    scorer(some_images, texts)
    assert seen == [6, 6]


def test_without_numbers_both_filters_keep_the_same(model, some_images):
    texts = ["red star", "blue dog", "owl", "fox", "two cats", "a"]
    kept = []
    for transform in (None, mask_numbers):
        one = ScoreFilter(ClipScorer(model), text_transform=transform)
        kept.append(one.select(one.score(some_images, texts)).tolist())
    assert kept[0] == kept[1]


def test_a_caption_of_numbers_alone_is_kept_last(model, some_images):
    one = ScoreFilter(ClipScorer(model), fraction=0.99, text_transform=[mask_numbers])
    scores = one.score(some_images, ["red", "2019", "a", "b", "c", ""])
    assert scores[[1, 5]].tolist() == [-1, -1]
    assert 5 not in one.select(scores)
    report = one.report()
    assert (report.scored, report.emptied, report.kept) == (6, 2, 5)
    assert report.text_transform == ("mask_numbers",)
    assert report.digest == one.scorer.digest
    assert ScoreFilter(lambda images, texts: np.zeros(1)).report().kept == -1


def test_image_transforms_come_before_the_score(model, some_images):
    grey = np.full((32, 32, 3), 128, np.uint8)
    one = ScoreFilter(ClipScorer(model), image_transform=lambda image: grey)
    scores = one.score(some_images, ["a"] * 6)
    assert np.ptp(scores) == 0
    assert scores[0] == ClipScorer(model)([grey], ["a"])[0]


def test_wrong_pairs_are_refused(model, some_images):
    one = ScoreFilter(ClipScorer(model))
    with pytest.raises(InputError, match="6 images and 1 texts"):
        one.score(some_images, ["a"])
    with pytest.raises(TypeError, match=r"texts\[0\]: expected str, got int"):
        one.score(some_images[:1], [3])
    with pytest.raises(TypeError, match="got one str"):
        one.score(some_images[:1], "a")
    with pytest.raises(InputError, match="not an image"):
        one.score([b"no image"], ["a"])
    with pytest.raises(InputError, match="expected 1 scores, got 2"):
        ScoreFilter(lambda images, texts: np.zeros(2)).score([b""], ["a"])
    with pytest.raises(InputError, match="NaN"):
        ScoreFilter(lambda images, texts: np.array([np.nan])).score([b""], ["a"])


def test_a_model_of_distances_is_refused():
    model = create("tiny", geometry="euclidean")
    with pytest.raises(UnsupportedModelError, match="euclidean"):
        ClipScorer(model)
