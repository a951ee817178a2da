"""How often classes are named in captions, and rare classes cut to a few rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tether.core.errors import InputError
from tether.data.curate.steps.concepts import IMAGENET_NEGATIVES, concept_frequency, names_of, trim_tail, words_of


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
