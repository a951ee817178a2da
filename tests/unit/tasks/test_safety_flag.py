"""The flag step of a recipe: it says what the classifier says, drops nothing, and refuses another model's prompts."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import tether
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.data.images import load
from tether.methods.offensiveness import rated_splits, ratings_to_labels
from tether.methods.q16.curate_step import SafetyFlag
from tether.models import create
from tether.models.embed import encode_images
from tether.models.save import save
from tether.tasks.safety import PromptClassifier


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows(pictures: list[bytes | None]) -> pa.RecordBatch:
    keys = [f"row {number}" for number in range(len(pictures))]
    columns = {"key": keys, "text": ["a text"] * len(keys), "image": pa.array(pictures, pa.binary())}
    return pa.record_batch(columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("safety")
    save(create("tiny", seed=1).eval(), place / "model")
    save(create("tiny", seed=2).eval(), place / "other")
    model = tether.load(place / "model")
    features = np.random.default_rng(0).normal(size=(40, model.dim))
    start = np.random.default_rng(1).normal(size=(2, model.dim))
    tuned = PromptClassifier(prompts=start, digest=model_digest(model), epochs=2, scale=20.0)
    tuned.fit(features, np.arange(40) % 2).save(place / "prompts.safetensors")
    three = PromptClassifier(prompts=np.eye(3, model.dim), digest=model_digest(model)).start()
    three.save(place / "three.safetensors")
    return place


def test_it_says_what_the_classifier_says(folder: Path):
    pictures = [png(seed) for seed in range(12)]
    step = SafetyFlag(
        model=str(folder / "model"), classifier=str(folder / "prompts.safetensors"), threshold=0.5, label="scratched"
    )
    found = step.flag(rows([*pictures, None, b"no picture"]))
    model = tether.load(folder / "model")
    classifier = PromptClassifier.load(folder / "prompts.safetensors", encoder=model)
    pixels = [load(picture, model.image_spec)[None] for picture in pictures]
    chance = classifier.predict_proba(encode_images(model, pixels).double().numpy())[:, 1]
    np.testing.assert_allclose(found.column("score").to_pylist()[:12], chance, atol=1e-5)
    labels = ["possibly scratched" if value >= 0.5 else None for value in chance]
    assert 0 < sum(label is None for label in labels) < 12
    assert found.column("label").to_pylist() == [*labels, None, None]
    assert found.column("score").to_pylist()[12:] == [None, None]


def test_two_sentences_will_do(folder: Path):
    step = SafetyFlag(model=str(folder / "model"), texts=("a cup", "a broken cup"))
    assert step.flag(rows([png(0)])).column("score")[0].as_py() is not None
    assert step.flag(rows([])).num_rows == 0


def test_settings_hold_digests_and_it_travels(folder: Path):
    step = SafetyFlag(model=str(folder / "model"), classifier=str(folder / "prompts.safetensors"))
    settings = json.loads(json.dumps(step.settings))
    assert settings["model_digest"] == model_digest(tether.load(folder / "model"))
    assert len(settings["classifier_sha256"]) == 64
    batch = rows([png(seed) for seed in range(3)])
    assert pickle.loads(pickle.dumps(step)).flag(batch).equals(step.flag(batch))


def test_prompts_of_another_model_are_refused(folder: Path):
    step = SafetyFlag(model=str(folder / "other"), classifier=str(folder / "prompts.safetensors"))
    with pytest.raises(InputError, match="digest"):
        step.flag(rows([png(0)]))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"texts": ["one", ""]}, "texts"),
        ({"label": " "}, "label"),
        ({"classifier": "absent.safetensors"}, "no such file"),
        ({"classifier": "THREE"}, "two classes"),
    ],
)
def test_wrong_settings_are_refused(folder: Path, settings, match):
    if settings.get("classifier") == "THREE":
        settings = {"classifier": str(folder / "three.safetensors")}
    with pytest.raises(InputError, match=match):
        SafetyFlag(model=str(folder / "model"), **settings)


def test_a_pool_without_pictures_is_refused(folder: Path):
    with pytest.raises(InputError, match="image"):
        SafetyFlag(model=str(folder / "model")).flag(pa.record_batch({"key": ["a"], "text": ["b"]}))


def test_ratings_at_a_threshold_are_left_out_and_halves_go_to_the_even():
    found = ratings_to_labels([1.5, 2.5, 2.4999, 3.5, 3.6, 4.5, 5.0])
    assert found.kept.tolist() == [0, 2, 4, 5, 6]
    assert found.y.tolist() == [1, 1, 0, 0, 0]
    assert found.strata.tolist() == [2, 2, 4, 4, 5]


@pytest.mark.parametrize(
    ("ratings", "limits", "match"),
    [
        ([1.0, float("nan"), 5.0], {}, "NaN"),
        ([1.0, 2.0], {}, "only one class"),
        ([3.0, 3.0], {}, "only one class"),
        ([1.0, 5.0], {"low": 3.5, "high": 2.5}, "low below high"),
        ([1.0, 5.0], {"low": 3.0, "high": 3.0}, "low below high"),
        ([], {}, "one number"),
        ([[1.0, 5.0]], {}, "one number"),
    ],
)
def test_wrong_ratings_are_refused(ratings, limits, match):
    with pytest.raises(InputError, match=match):
        ratings_to_labels(ratings, **limits)


def test_a_share_of_the_training_part_keeps_the_test_part():
    strata = np.repeat([1, 2, 4, 5], 40)
    y = (strata < 3).astype(int)
    whole, part = (rated_splits(y, strata=strata, train_size=size, n_splits=3) for size in (1.0, 0.25))
    for all_of_it, some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(all_of_it.test, some.test)
        assert set(some.train) < set(all_of_it.train)
        assert not set(all_of_it.train) & set(all_of_it.test)
        assert np.bincount(strata[some.train])[[1, 2, 4, 5]].tolist() == [9, 9, 9, 9]
    assert len({tuple(split.test) for split in whole}) == 3


def test_wrong_splits_are_refused():
    strata = np.repeat([1, 5], 20)
    y = (strata < 3).astype(int)
    with pytest.raises(InputError, match="1 of 2"):
        rated_splits(np.append(y, 1), strata=np.append(strata, 2))
    with pytest.raises(InputError, match="rows of each stratum"):
        rated_splits(y, strata=strata, train_size=0.02)
    with pytest.raises(InputError, match="one label and one stratum"):
        rated_splits(y, strata=strata[:-1])
