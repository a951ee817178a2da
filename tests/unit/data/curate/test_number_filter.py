"""Numbers out of captions, rows by their scores, and the filter that joins the two."""

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
from tether.models import create
from tether.tasks.curate.score_filter import ScoreFilter
from tether.tasks.curate.scorer import ClipScorer

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
def test_scores_of_other_libraries_models(kind, pictures, tmp_path):
    other = kind(tmp_path)
    scores = ClipScorer(other)(pictures, ["a red cat"] * 3 + ["dog"] * 3)
    assert np.abs(scores).max() <= 1
    assert len(set(scores.tolist())) > 1


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (6, 40, 32, 3), dtype=np.uint8))


def test_scores_are_cosines_whatever_form_the_pictures_have(model, pictures, tmp_path):
    texts = ["a", "b 1", "c", "a", "", "b"]
    scores = ClipScorer(model)(pictures, texts)
    pixels = torch.stack([load(picture, model.image_spec) for picture in pictures])
    with torch.inference_mode():
        words = model.encode_text(model.tokenizer(texts)).unit
        expected = (model.encode_image(pixels).unit * words).sum(dim=1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(ClipScorer(model)(pixels, texts), expected, atol=1e-6)
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    np.testing.assert_allclose(ClipScorer(model)([path, path.read_bytes()], ["a", "a"]), scores[[0, 0]], atol=1e-6)


def test_nothing_is_encoded_twice(model, pictures, monkeypatch):
    scorer = ClipScorer(model)
    seen: list[int] = []
    plain = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda pixels, **rest: seen.append(len(pixels)) or plain(pixels, **rest))
    texts = ["a 1", "b", "c", "d", "e", "f"]
    raw = ScoreFilter(scorer).score(pictures, texts)
    masked = ScoreFilter(scorer, text_transform=[mask_numbers]).score([*pictures[:5], pictures[0]], texts)
    assert seen == [6]
    assert raw[1] == masked[1]
    assert raw[0] != masked[0]
    scorer.remembered = 0
    scorer(pictures, texts)
    scorer(pictures, texts)
    assert seen == [6, 6]


def test_without_numbers_both_filters_keep_the_same(model, pictures):
    texts = ["red star", "blue dog", "owl", "fox", "two cats", "a"]
    kept = []
    for transform in (None, mask_numbers):
        one = ScoreFilter(ClipScorer(model), text_transform=transform)
        kept.append(one.select(one.score(pictures, texts)).tolist())
    assert kept[0] == kept[1]


def test_a_caption_of_numbers_alone_is_kept_last(model, pictures):
    one = ScoreFilter(ClipScorer(model), fraction=0.99, text_transform=[mask_numbers])
    scores = one.score(pictures, ["red", "2019", "a", "b", "c", ""])
    assert scores[[1, 5]].tolist() == [-1, -1]
    assert 5 not in one.select(scores)
    report = one.report()
    assert (report.scored, report.emptied, report.kept) == (6, 2, 5)
    assert report.text_transform == ("mask_numbers",)
    assert report.digest == one.scorer.digest
    assert ScoreFilter(lambda images, texts: np.zeros(1)).report().kept == -1


def test_picture_transforms_come_before_the_score(model, pictures):
    grey = np.full((32, 32, 3), 128, np.uint8)
    one = ScoreFilter(ClipScorer(model), image_transform=lambda picture: grey)
    scores = one.score(pictures, ["a"] * 6)
    assert np.ptp(scores) == 0
    assert scores[0] == ClipScorer(model)([grey], ["a"])[0]


def test_wrong_pairs_are_refused(model, pictures):
    one = ScoreFilter(ClipScorer(model))
    with pytest.raises(InputError, match="6 images and 1 texts"):
        one.score(pictures, ["a"])
    with pytest.raises(TypeError, match=r"texts\[0\]: expected str, got int"):
        one.score(pictures[:1], [3])
    with pytest.raises(TypeError, match="got one str"):
        one.score(pictures[:1], "a")
    with pytest.raises(InputError, match="not an image"):
        one.score([b"no picture"], ["a"])
    with pytest.raises(InputError, match="expected 1 scores, got 2"):
        ScoreFilter(lambda images, texts: np.zeros(2)).score([b""], ["a"])
    with pytest.raises(InputError, match="NaN"):
        ScoreFilter(lambda images, texts: np.array([np.nan])).score([b""], ["a"])


def test_a_model_of_distances_is_refused():
    model = create("tiny", geometry="euclidean")
    with pytest.raises(UnsupportedModelError, match="euclidean"):
        ClipScorer(model)
