"""The segmenter whose patches attend to what is like them: texts with descriptions, attention, pixels, and labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.excel_wsss import ExcelSegmenter
from tether.methods.excel_wsss.map_refinement import pseudo_labels
from tether.models import create

CLASSES = ["road", "car", "sky"]
SAID = {"road": ["grey", "flat", "long"], "car": ["with wheels"]}


def image(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def test_descriptions_move_the_texts_of_their_classes_alone(model) -> None:
    plain = ExcelSegmenter(background=["wall"]).prepare(model, CLASSES)
    said = ExcelSegmenter(background=["wall"], attributes=SAID, clusters=2).prepare(model, CLASSES)
    moved = (plain.rows - said.rows).abs().amax(dim=1) > 1e-4
    assert moved.tolist() == [True, True, False, False]
    torch.testing.assert_close(said.rows.norm(dim=1), torch.ones(4))
    assert said.settings()["attributes"] == {"road": ("grey", "flat", "long"), "car": ("with wheels",)}
    with pytest.raises(InputError, match="attributes: expected some of road, car, sky, got boat"):
        ExcelSegmenter(attributes={"boat": ["wet"]}).prepare(model, CLASSES)


@pytest.mark.parametrize("more", [{"spread": "attention"}, {"normalise": "channels"}, {"blocks": 1}, {"kind": "v"}])
def test_each_setting_changes_what_is_found(model, more: dict) -> None:
    plain = ExcelSegmenter().prepare(model, CLASSES).predict([image(40, 70)])[0]
    other = ExcelSegmenter(**more).prepare(model, CLASSES).predict([image(40, 70)])[0]
    assert np.isfinite(other.scores).all()
    assert not np.allclose(plain.scores, other.scores)


def test_pixels_are_those_of_a_small_image(model) -> None:
    found = ExcelSegmenter(pixels=2, side=16).prepare(model, CLASSES).predict([image(40, 80)])[0]
    assert found.scores.shape == (3, 16, 32)
    assert found.size == (40, 80)


def test_convolutions_are_refused_with_their_reason(tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match="its convolutions give a map of places"):
        ExcelSegmenter(templates=["{}"]).prepare(FAMILIES["ConvNeXt"](tmp_path), CLASSES)


def test_labels_to_learn_from() -> None:
    maps = torch.tensor([[[0.9, 0.1, 0.5]], [[0.0, 0.0, 0.0]], [[0.1, 0.1, 1.0]]])
    found = pseudo_labels(maps, torch.zeros(3, 1, 3), present=[0, 2], rounds=0)
    assert found.tolist() == [[1, 0, 3]]
    assert pseudo_labels(maps, torch.zeros(3, 1, 3), present=[0], rounds=0).tolist() == [[1, 0, 255]]
    assert pseudo_labels(maps, torch.zeros(3, 1, 3), present=[], rounds=0).tolist() == [[0, 0, 0]]
    with pytest.raises(InputError, match="present: expected classes 0 to 2, got 3"):
        pseudo_labels(maps, torch.zeros(3, 1, 3), present=[3])
    with pytest.raises(InputError, match="low: expected at most high"):
        pseudo_labels(maps, torch.zeros(3, 1, 3), present=[0], low=0.9)
