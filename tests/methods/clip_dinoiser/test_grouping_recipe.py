"""The recipe grouping: what it learns from whom, its head's file, and masks with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from families import FAMILIES
from memory_rows import squares, without_words
from tether.adaptation.heads import load_head
from tether.adaptation.recipes import Given, play
from tether.core.errors import InputError
from tether.methods.clip_dinoiser import GroupingHead, GroupingRecipe
from tether.methods.clip_dinoiser.distill import ColourTeacher, GroupingStep, ValueTeacher, seed_saliency
from tether.methods.clip_dinoiser.patch_affinity import patch_affinity
from tether.models import create
from tether.models.features.patch_grouping import inner_map
from tether.models.save import save

SETTINGS = {"name": "grouping", "steps": 3, "batch_size": 6, "dim": 8}


def halves(count: int = 2) -> torch.Tensor:
    image = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
    image[:, 0, :, 16:] = 200
    return image


def test_a_head_is_kept_and_makes_masks(tmp_path: Path) -> None:
    model = create("tiny", seed=1).eval()
    done = tether.adapt(model, without_words(squares(12)), recipe=SETTINGS, out=tmp_path / "head")
    head = load_head(tmp_path / "head", model=model)
    assert isinstance(head, GroupingHead)
    assert "--classes" in "".join(done.report.next)
    assert head.logits(torch.randn(3, head.dim)).shape == (3, 1)
    found = tether.segment("scenes:rows=2,size=64", "circle,star", model=model, head=tmp_path / "head")
    plain = tether.segment("scenes:rows=2,size=64", "circle,star", model=model, using="dinoiser")
    assert (found.method, plain.method) == ("dinoiser", "dinoiser")
    key = found.keys[0]
    assert not np.allclose(found.masks[key].scores, plain.masks[key].scores)
    with pytest.raises(InputError, match="is for --with dinoiser, got values"):
        tether.segment("scenes:rows=2,size=64", "circle,star", model=model, head=head, using="values")
    probe = tether.adapt(model, "digits", recipe="probe", shots=2).head
    with pytest.raises(InputError, match=r"made by .*grouping.*, got one of kind linear"):
        tether.segment("scenes:rows=2,size=64", "circle,star", model=model, head=probe)
    with pytest.raises(InputError, match="was fitted on an image side with digest"):
        tether.segment("scenes:rows=2,size=64", "circle,star", model=create("tiny", seed=2).eval(), head=head)
    with pytest.raises(InputError, match="use tether segment --head"):
        tether.classify("scenes:rows=2,size=64", model=model, head=tmp_path / "head")


def test_any_callable_teaches_and_the_loss_falls() -> None:
    model, rows = create("tiny", seed=1).eval(), squares(24)
    recipe = GroupingRecipe(steps=30, batch_size=8, dim=16, images="plain", learning_rate=1e-2)
    calls: list[tuple[int, ...]] = []

    def teacher(image: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(image.shape))
        return ColourTeacher(grid=(8, 8))(image)  # a finer grid than the model's

    losses: list[float] = []
    described = recipe.describe(model, Given("images", rows, 24), teacher=teacher, saliency=lambda x: x[:, :1] / 255)
    play(described, model, on_step=lambda report: losses.append(float(report.loss)))
    assert calls[0] == (8, 3, 32, 32)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_colours_and_places_tell_halves_apart() -> None:
    features = ColourTeacher(grid=(4, 4))(halves()).flatten(2).transpose(1, 2)
    alike = patch_affinity(features, threshold=0.2)[0] > 0
    left = torch.arange(16) % 4 < 2
    assert torch.equal(alike, left[:, None] == left)
    assert ColourTeacher(grid=(1, 1))(halves()).isfinite().all()


@pytest.mark.parametrize("kind", ["Tether", "ConvNeXt"])
def test_a_model_teaches_by_its_values(kind: str, tmp_path: Path) -> None:
    other = FAMILIES[kind](tmp_path).eval()
    found = ValueTeacher(other)(torch.zeros(2, 3, 48, 48, dtype=torch.uint8))
    assert found.ndim == 4
    assert len(found) == 2
    less = ValueTeacher(other, less_mean=True)(halves())
    torch.testing.assert_close(less.mean(dim=(2, 3)), torch.zeros(less.shape[:2]), atol=1e-4, rtol=0)


def test_the_recipe_takes_a_model_by_name(tmp_path: Path) -> None:
    save(create("tiny", seed=3), tmp_path / "teacher")
    settings = {**SETTINGS, "teacher": str(tmp_path / "teacher"), "teacher_mean": "removed", "images": "plain"}
    assert tether.adapt(create("tiny", seed=1).eval(), without_words(squares(12)), recipe=settings).head is not None


def test_the_background_is_what_most_are_alike_to() -> None:
    affinity = torch.eye(4)[None].clone()
    affinity[0, :3, :3] = 1
    assert seed_saliency(affinity).tolist() == [[0, 0, 0, 1]]


def test_bad_teachers_and_files() -> None:
    model, rows = create("tiny", seed=1).eval(), squares(12)
    described = GroupingRecipe(steps=1).describe(
        model, Given("images", rows, 12), teacher=lambda image: torch.zeros(1, 2)
    )
    with pytest.raises(InputError, match=r"teacher: expected a map \(12, c, r, s\), got \(1, 2\)"):
        play(described, model)
    with pytest.raises(InputError, match="kernel: expected an odd number"):
        tether.adapt(model, rows, recipe={**SETTINGS, "kernel": 4})
    with pytest.raises(InputError, match="threshold"):
        GroupingStep(lambda image: image, threshold=2.0)
    assert inner_map(model, halves()).shape == (2, 64, 4, 4)
