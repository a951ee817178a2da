"""What a step of the recipe ``regions`` shows the tower, and what moves."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

import tether
from memory_rows import MemoryRows, boxed, squares
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Regions, Row
from tether.data.contents import BatchContents
from tether.data.loader import Loader
from tether.data.region_views import whole_image
from tether.data.regions import RegionColumns
from tether.methods.alpha_clip import RegionsRecipe
from tether.methods.alpha_clip.recipe import RegionStep
from tether.methods.alpha_clip.region_questions import ask_regions
from tether.models import create
from tether.models.towers.vision.alpha_stem import add_alpha_
from tether.training.steps.module import StepModule
from tether.workflows.adaptation.boxes import boxes_said


def wide_rows(count: int = 8) -> MemoryRows:
    """Images twice as wide as high with one region, their left half, which is white."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20] = 255
    meta = {"boxes": [[0.0, 0.0, 0.5, 1.0]], "phrases": ["white"]}
    return MemoryRows([Row(str(number), image, ("half white",), meta) for number in range(count)])


def batch_of(*, flip: float = 0.0) -> Batch:
    model = create("tiny")
    contents = BatchContents(
        crops={"image": {"scale": (1.0, 1.0), "flip": flip}} if flip else None,
        regions={"most": 1, "boxes": "boxes", "phrases": "phrases"},
    )
    spec = whole_image(model.image_spec)
    return next(
        Loader(wide_rows(), batch_size=8, image_spec=spec, tokenizer=model.tokenizer, seed=0, contents=contents)
    )


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_alpha_lies_where_the_region_is(flip: float) -> None:
    batch = batch_of(flip=flip)
    regions = cast(Regions, batch.extra["regions"])
    step = RegionStep(RegionsRecipe(), seed=0)
    nowhere, stem = torch.zeros(8, dtype=torch.bool), add_alpha_(create("tiny"))
    alpha = step._alpha(batch, regions, nowhere, stem=stem, generator=torch.Generator())
    white = batch.image.float().mean(dim=1) > 200
    assert ((alpha[:, 0] > 0) == white).float().mean() > 0.93
    everything = step._alpha(batch, regions, ~nowhere, stem=stem, generator=torch.Generator())[:, 0] > 0
    if not flip:
        assert everything[0].sum(dim=0).tolist() == [16] * 32  # the image, not the bars above and below it
    points = RegionStep(RegionsRecipe(as_points=1.0), seed=0)
    dots = points._alpha(batch, regions, nowhere, stem=stem, generator=torch.Generator().manual_seed(0))[:, 0] > 0
    assert (dots & white).flatten(1).any(dim=1).all()
    assert dots.float().mean() < 0.2


@pytest.mark.parametrize("norm", [{}, {"mean": 0.0, "std": 1.0}])
def test_loss_has_a_gradient_for_alpha_alone_on_the_text_side(norm: dict[str, float]) -> None:
    model, batch = create("tiny").eval(), batch_of()
    stem = add_alpha_(model, **norm)
    step = RegionStep(RegionsRecipe(common=0.5, repeated="positives"), seed=0)
    loss = step(StepModule(model), batch, step=0, gather=LOCAL).total
    loss.backward()
    assert stem.alpha.grad is not None
    assert stem.alpha.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.text.parameters())
    again = step(StepModule(model), batch, step=0, gather=LOCAL).total
    assert torch.equal(loss, again)


def test_adapters_in_place_of_the_tower() -> None:
    base = create("tiny").eval()
    settings = {"name": "regions", "steps": 3, "batch_size": 6, "rank": 2, "learning_rate": 1e-2, "as_boxes": 1.0}
    done = tether.adapt(base, boxed(), recipe=settings, keep=squares(12, seed=5))
    assert done.model is not None
    changed = {
        name.replace("patch.layer", "patch")
        for name, value in done.model.state_dict().items()
        if name != "visual.patch.alpha" and not torch.equal(value, base.state_dict()[name.replace(".layer.", ".")])
    }
    assert changed
    assert all(name.startswith("visual.blocks.") for name in changed)
    assert [figure.name[:6] for figure in done.report.own[1:]] == ["region", "region", "both o"]
    assert done.report.frozen.text_side


def test_the_unit_of_boxes_is_said_and_columns_are_named() -> None:
    def rows(*boxes: list[list[float]]) -> MemoryRows:
        image = np.zeros((20, 40, 3), np.uint8)
        meta = [{"bbox": one, "phrases": ["white"]} for one in boxes]
        return MemoryRows([Row(str(number), image, ("white",), one) for number, one in enumerate(meta)])

    columns = RegionColumns(most=2, boxes="bbox", phrases="phrases")
    shares, pixels = [[0.0, 0.0, 0.5, 1.0]], [[0.0, 0.0, 20.0, 20.0]]
    assert "shares of its width and height" in boxes_said(rows(shares, [], shares), columns)[0]
    assert "pixels of the image" in boxes_said(rows(pixels), columns)[0]
    assert columns.read(rows(pixels).rows[0], size=(20, 40)).boxes.tolist() == shares
    assert boxes_said(rows([]), columns) == []
    with pytest.raises(InputError, match="boxes of '0' look like shares of the image, those of '2' like pixels"):
        boxes_said(rows(shares, shares, pixels), columns)
    said = RegionColumns(most=2, boxes="bbox", unit="pixel")
    assert "pixels" in boxes_said(rows(shares, pixels), said)[0]
    with pytest.raises(InputError, match="phrases: no column 'phrase'; did you mean 'phrases'"):
        boxes_said(rows(shares), RegionColumns(most=2, boxes="bbox", phrases="phrase"))


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="at most 1 with as_points"):
        RegionsRecipe(as_boxes=0.6, as_points=0.6)
    with pytest.raises(InputError, match=r"boxes: no column 'boxes'; known: .*; name it by boxes=COLUMN"):
        tether.adapt(create("tiny"), squares(), recipe={"name": "regions", "steps": 2}, keep=squares(12, seed=5))
    model = create("tiny").eval()
    with pytest.raises(InputError, match="takes alpha"):
        ask_regions(wide_rows(), before=model, after=model, columns=RegionColumns(most=2, phrases="phrases"))
    add_alpha_(model)
    assert ask_regions(wide_rows(), before=model, after=model, columns=RegionColumns(most=2, phrases="phrases")) is None
