"""The step quality of a recipe: it says what the scorer says, refuses what cannot be scored, and takes a head."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import tether
from tether.adaptation.heads import LinearHead, QualityHead
from tether.core.errors import InputError
from tether.data.images import decode
from tether.methods.qualiclip.curate_step import QualityFilter
from tether.models import create
from tether.models.save import save
from tether.tasks.quality import QualityScorer


def png(seed: int, side: int = 40) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def deep_grey() -> bytes:
    file = io.BytesIO()
    values = np.linspace(0, 65535, 48 * 48).astype(np.uint16).reshape(48, 48)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def rows(images: list[bytes | None]) -> pa.RecordBatch:
    keys = [f"row {number}" for number in range(len(images))]
    return pa.record_batch({"key": keys, "text": ["a text"] * len(keys), "image": pa.array(images, pa.binary())})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("quality")
    model = create("tiny", seed=1).eval()
    save(model, place / "model")
    save(create("tiny", seed=2).eval(), place / "other")
    text = torch.randn(4, model.dim, generator=torch.Generator().manual_seed(0))
    QualityHead(text, prompts=["a", "b", "c", "d"], scale=20.0).bind_(model).save(place / "head")
    LinearHead(torch.eye(2, model.dim), classes=("cat", "dog")).bind_(model).save(place / "classes")
    return place


def test_it_says_what_the_scorer_says(folder: Path) -> None:
    images = [png(0), png(1, 100), None, b"no image", png(0), deep_grey()]
    model = tether.load(folder / "model")
    for head in (None, str(folder / "head")):
        step = QualityFilter(model=str(folder / "model"), head=head, threshold=0.5)
        scorer = QualityScorer(model) if head is None else QualityScorer.load(head, model)
        found = step.scores(rows(images))
        for row in (0, 1, 4, 5):
            assert found[row] == pytest.approx(float(scorer.score([decode(images[row])])[0]), abs=1e-6)
        assert np.isnan(found[[2, 3]]).all()
        assert found[0] == found[4]
        kept = step.keep(rows(images))
        assert kept.tolist() == (found >= 0.5).astype(float).tolist()
        assert json.loads(json.dumps(step.settings))["head"] == head
        assert np.array_equal(pickle.loads(pickle.dumps(step)).scores(rows(images)), found, equal_nan=True)


def test_a_fraction_of_those_that_could_be_scored(folder: Path) -> None:
    images = [*map(png, range(9)), None]
    step = QualityFilter(model=str(folder / "model"), head=str(folder / "head"), fraction=0.34, grid=1)
    step.partial_fit(rows(images))
    kept = step.keep(rows(images))
    assert kept.sum() == 3
    scores = step.scores(rows(images))[:9]
    assert scores[kept[:9] == 1].min() >= scores[kept[:9] == 0].max()
    assert step.report()["not_scored"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of fraction and threshold"),
        ({"fraction": 0.5, "threshold": 0.5}, "one of fraction and threshold"),
        ({"threshold": 2.0}, "threshold"),
        ({"threshold": 0.5, "prompts": ["Good photo."]}, "as many of each"),
        ({"threshold": 0.5, "head": "nowhere"}, "nowhere: holds no head"),
        ({"threshold": 0.5, "head": "CLASSES"}, "got one of kind 'linear'"),
        ({"threshold": 0.5, "head": "HEAD", "prompts": ["a", "b"]}, "a head has its own"),
    ],
)
def test_refused(folder: Path, settings: dict, message: str) -> None:
    places = {"CLASSES": str(folder / "classes"), "HEAD": str(folder / "head")}
    given = {name: places.get(value, value) if name == "head" else value for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        QualityFilter(model=str(folder / "model"), **given)


def test_another_model_s_head(folder: Path) -> None:
    step = QualityFilter(model=str(folder / "other"), head=str(folder / "head"), threshold=0.5)
    with pytest.raises(InputError, match="was trained with an image side of digest"):
        step.scores(rows([png(0)]))
