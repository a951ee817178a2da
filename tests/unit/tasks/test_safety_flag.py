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
from tether.models import create
from tether.models.embed import encode_images
from tether.models.save import save
from tether.tasks.curate.safety import SafetyFlag
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
