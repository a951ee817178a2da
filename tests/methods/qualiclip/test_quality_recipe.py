"""The recipe quality: it learns an order from images alone; its draws, its head's file, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import tether
from memory_rows import MemoryRows, squares, without_words
from tether.adaptation.heads import QualityHead, load_head
from tether.core.errors import InputError
from tether.core.types import Row
from tether.methods.qualiclip import DEGRADATIONS, QualityRecipe
from tether.methods.qualiclip.recipe import QualityStep
from tether.models import create
from tether.models.texts.prompt_quality import PROMPTS, prompt_rows

KINDS = ["gaublur", "whitenoise"]


def photos(count: int = 16) -> MemoryRows:
    rows = [
        Row(f"photo {number}", np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8), (), {})
        for number in range(count)
        for rng in [np.random.default_rng(number)]
    ]
    return MemoryRows(rows, name="photos")


def step_of(**settings: Any) -> QualityStep:
    return QualityStep(QualityRecipe(**settings), torch.eye(14), seed=0)


def test_it_learns_an_order_from_images_alone(tmp_path: Path) -> None:
    model = create("tiny").eval()
    spec = {"name": "quality", "kinds": ["nonlincontrchange"], "steps": 25, "batch_size": 4, "learning_rate": 3e-3}
    done = tether.adapt(model, photos(), recipe=spec, test=photos(20), out=tmp_path / "out")
    ladder = next(one for one in done.report.own if "level of degradation" in one.name)
    assert ladder.after.value < -0.8
    assert ladder.better == "lower"
    assert ladder.n == 4  # the others were learnt from
    head = load_head(tmp_path / "out", model=tether.load(tmp_path / "out"))
    assert isinstance(head, QualityHead)
    assert head.prompts == PROMPTS
    torch.testing.assert_close(head.text, prompt_rows(model))
    assert done.report.frozen.text_side  # the texts rest
    with pytest.raises(InputError, match="fitted on an image side"):
        load_head(tmp_path / "out", model=model)


def test_crops_overlap_and_hang_on_the_key() -> None:
    image = (torch.arange(60)[:, None] * 4 + torch.arange(60)).expand(3, 60, 60).to(torch.uint8)
    step = step_of(kinds=["darken"], sized_for=30)
    for key in map(str, range(20)):
        found = step.ladder(image, size=(30, 30), key=key)
        assert found.shape == (5, 2, 3, 30, 30)
        assert torch.equal(found, step.ladder(image, size=(30, 30), key=key))
        means = found.float().mean(dim=(2, 3, 4))
        assert (means[1:] < means[:-1]).all()
    assert not torch.equal(found, step.ladder(image, size=(30, 30), key="else"))
    square = torch.zeros(3, 30, 30, dtype=torch.uint8)
    assert step.ladder(square, size=(30, 30), key="a").shape == (5, 2, 3, 30, 30)  # no room to move


def test_kinds_together_are_of_different_groups() -> None:
    step = step_of(together=7)
    generator = torch.Generator().manual_seed(0)
    drawn = [step._kinds(generator) for _ in range(50)]
    assert {len(kinds) for kinds in drawn} == set(range(1, 8))
    for kinds in drawn:
        assert len({DEGRADATIONS[kind].group for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["blur"]}, "no degradation 'blur'"),
        ({"kinds": ["meanshift"]}, "meanshift are no ladder"),
        ({"kinds": []}, "kinds"),
        ({"prompts": ["Good photo."]}, "as many of each"),
        ({"m_rank": -1.0}, "m_rank"),
        ({"together": 8}, "together"),
        ({"pairs": "some"}, "pairs"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QualityRecipe(**settings)


def test_head_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected \\(14, d\\) text, got \\(3, 8\\)"):
        QualityHead(torch.zeros(3, 8))
    with pytest.raises(InputError, match="finite"):
        QualityHead(torch.full((2, 8), torch.nan), prompts=["good", "bad"])
    head = QualityHead(torch.eye(2), prompts=["good", "bad"], scale=1.0)
    assert head.logits(torch.eye(2)).flatten().tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)
    with pytest.raises(InputError, match="digest"):
        head.save(tmp_path)


def test_images_of_one_colour_and_small_ones_are_learnt_from_all_the_same() -> None:
    spec = {"name": "quality", "steps": 2, "batch_size": 2, "kinds": KINDS}
    flat = [Row(f"{n}", np.full((5, 9, 3), 80 + n, np.uint8), (), {}) for n in range(4)]
    done = tether.adapt(create("tiny").eval(), MemoryRows(flat), recipe=spec, test=without_words(squares(4)))
    assert done.head is not None
    assert all(value.isfinite().all() for value in cast(Any, done.model).state_dict().values())
    assert done.report.own[-1].n == 4
