"""The recipe relation: labels from which classes images show, its head's file, and masks with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from memory_rows import MemoryRows, boxed, squares
from tether.adaptation.heads import load_head
from tether.adaptation.recipes import Given, play
from tether.core.errors import InputError
from tether.methods.excel_wsss import RelationHead, RelationRecipe
from tether.methods.excel_wsss.distill import LabelMaker
from tether.methods.excel_wsss.patch_relation import ExcelAdapter
from tether.models import create

SETTINGS = {"name": "relation", "steps": 4, "batch_size": 4, "dim": 16, "hidden": 8, "depth": 1, "rounds": 2}
pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_head_is_kept_and_makes_masks(tmp_path: Path) -> None:
    model = create("tiny", seed=1).eval()
    done = tether.adapt(model, boxed(12), recipe=SETTINGS, out=tmp_path / "head")
    head = load_head(tmp_path / "head", model=model)
    assert isinstance(head, RelationHead)
    assert head.classes == ("a wall", "blue paint", "green paint", "red paint")
    assert "--with excel --head" in "".join(done.report.next)
    scenes = "scenes:rows=2,size=64"
    found = tether.segment(scenes, "circle,star", model=model, head=tmp_path / "head")
    plain = tether.segment(scenes, "circle,star", model=model, using="excel")
    assert (found.method, plain.method) == ("excel", "excel")
    key = found.keys[0]
    assert not np.allclose(found.masks[key].scores, plain.masks[key].scores)
    with pytest.raises(InputError, match="is for --with excel, got dinoiser"):
        tether.segment(scenes, "circle,star", model=model, head=head, using="dinoiser")
    with pytest.raises(InputError, match="was fitted on an image side with digest"):
        tether.segment(scenes, "circle,star", model=create("tiny", seed=2).eval(), head=head)


def test_the_decoder_learns_which_classes_are_shown() -> None:
    model, rows = create("tiny", seed=1).eval(), boxed(24)
    settings = {name: value for name, value in SETTINGS.items() if name != "name"}
    recipe = RelationRecipe(**settings | {"steps": 60, "learning_rate": 1e-2, "calibrated": 0.5})
    losses: list[float] = []
    described = recipe.tuning(model, Given("images", rows, 24))
    play(described, model, on_step=lambda report: losses.append(float(report.loss)))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


@pytest.mark.parametrize("spread", ["attention", "none"])
def test_labels_are_of_classes_that_are_shown(spread: str) -> None:
    model = create("tiny", seed=1).eval()
    texts = torch.nn.functional.normalize(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    maker = LabelMaker(texts=texts, classes=3, spread=spread, rounds=2)
    found = maker(model, images(3), shown=[[0, 2], [1], []])
    for labels, allowed in zip(found, ({0, 1, 3, 255}, {0, 2, 255}, {0}), strict=True):
        assert set(labels.unique().tolist()) <= allowed
    assert {1, 3} & set(found[0].unique().tolist())
    feature = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(maker(model, images(3), shown=[[0, 2], [1], []], feature=feature), found)


def test_bad_columns_and_files() -> None:
    model = create("tiny", seed=1).eval()
    with pytest.raises(InputError, match="phrases"):
        tether.adapt(model, squares(12), recipe=SETTINGS)
    same = MemoryRows([replace(row, meta={"phrases": ["a wall"]}) for row in squares(12).rows])
    with pytest.raises(InputError, match="expected 2 to 254 classes in 'phrases', got 1"):
        tether.adapt(model, same, recipe=SETTINGS)
    with pytest.raises(InputError, match=r"relation head: expected \(2, d\) rows"):
        RelationHead(ExcelAdapter(layers=2, width=64), rows=torch.eye(3, 64), classes=["a", "b"])
    head = RelationHead(ExcelAdapter(layers=2, width=64, dim=4, hidden=4), rows=torch.eye(2, 64), classes=["a", "b"])
    arrays = {name: one for name, one in head.arrays().items() if "fuse" not in name}
    with pytest.raises(InputError, match="Missing key"):
        RelationHead.restore(arrays, classes=head.classes, settings=head.settings())
