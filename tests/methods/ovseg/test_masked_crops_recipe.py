"""Mask prompts and image towers learn from masked crops."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from memory_rows import MemoryRows, boxed, squares
from tether.core.errors import InputError
from tether.core.types import ImageLike
from tether.data.images import decode
from tether.data.regions import RegionColumns
from tether.methods.ovseg import MaskedCropsRecipe
from tether.methods.ovseg.masked_questions import masked_hits
from tether.methods.ovseg.masked_regions import masked_regions
from tether.models import create
from tether.models.towers.vision.mask_prompt_stem import prompts_of

SHORT = {"name": "masked_crops", "steps": 6, "batch_size": 8, "masks": "masks"}
COLUMNS = RegionColumns(most=4, phrases="phrases")
MASKED = RegionColumns(most=4, phrases="phrases", masks="masks")


def corners(count: int = 36) -> MemoryRows:
    """Squares with a region each that is all but a quarter, and its phrase."""
    rows = []
    for row in squares(count).rows:
        height, width = np.shape(row.image)[:2]
        y, x = np.mgrid[:height, :width]
        mask = ((y < height // 2) | (x < width // 2)).astype(np.uint8)
        more = {"boxes": [[0.0, 0.0, 1.0, 1.0]], "phrases": [f"{row.meta['label']} paint"], "masks": [mask]}
        rows.append(replace(row, meta={**row.meta, **more}))
    return MemoryRows(rows, name="corners")


def test_prompts_alone_move_and_unmasked_images_stay() -> None:
    model = create("tiny", seed=1).eval()
    done = tether.adapt(model, corners(), recipe=SHORT, keep=squares(8, seed=5))
    assert done.model is not None
    stem = prompts_of(done.model)
    assert stem is not None
    assert stem.prompts.shape == (2, 16, 64)  # of two blocks, though three places are the default
    assert done.report.costs.moved == stem.prompts.numel()
    image = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    model.requires_grad_(False)
    done.model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(done.model.encode_image(image).pooled, model.encode_image(image).pooled)
    figures = [one.name for one in done.report.own]
    assert "region named by its masked crop" in figures
    again = tether.adapt(done.model, corners(), recipe=SHORT, keep=squares(8, seed=5)).model
    more = prompts_of(again)
    assert more is not None
    assert not torch.equal(more.prompts, stem.prompts)


def test_the_image_tower_moves_and_learns() -> None:
    model = create("tiny", seed=1).eval()
    spec = {**SHORT, "moves": "image", "learning_rate": 1e-3, "steps": 20}
    done = tether.adapt(model, corners(), recipe=spec, keep=squares(8, seed=5))
    assert done.model is not None
    assert prompts_of(done.model) is None
    found = masked_regions(corners(), columns=MASKED, size=(32, 32))
    assert not found.masks.all()
    assert masked_hits(done.model, found).float().mean() > masked_hits(model, found).float().mean()


def test_a_mask_file_of_all_regions_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    row = boxed(1).rows[0]
    height, width = np.shape(row.image)[:2]
    values, file = (np.arange(height * width).reshape(height, width) % 50 + 1).astype(np.uint8), io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    meta = {"boxes": [[0.0, 0.0, 1.0, 1.0]] * 50, "phrases": ["some"] * 50, "masks": file.getvalue()}
    rows = MemoryRows([replace(row, meta=meta)], name="one")
    columns = RegionColumns(most=50, phrases="phrases", masks="masks")
    plain = MemoryRows([replace(row, meta={**meta, "masks": values})], name="plain")
    wanted = masked_regions(plain, columns=columns, size=(16, 16))
    decoded: list[str] = []

    def counted(image: ImageLike, *, name: str) -> torch.Tensor:
        decoded.append(name)
        return decode(image, name=name)

    monkeypatch.setattr(sys.modules[masked_regions.__module__], "decode", counted)
    found = masked_regions(rows, columns=columns, size=(16, 16))
    assert torch.equal(found.crops, wanted.crops)
    assert len(found.crops) == 50
    assert decoded == [row.key] * 2  # the image and the masks
    monkeypatch.setattr(sys.modules[masked_regions.__module__], "MOST_MASK_PIXELS", 49 * height * width)
    with pytest.raises(InputError, match=r"50 regions of .* pixels are read; lower `most`"):
        masked_regions(rows, columns=columns, size=(16, 16))


def test_regions_are_read_and_bad_ones_left_out() -> None:
    rows = boxed(4).rows
    rows[0] = replace(rows[0], meta={**rows[0].meta, "boxes": [[0.5, 0.0, 0.2, 1.0]], "phrases": ["wrong"]})
    found = masked_regions(MemoryRows(rows, name="some"), columns=COLUMNS, size=(16, 16))
    assert len(found.crops) == 6
    assert "wrong" not in found.phrases
    with pytest.raises(InputError, match=r"some: expected regions with phrases, got none; .*box 0"):
        masked_regions(MemoryRows(rows[:1], name="some"), columns=COLUMNS, size=(16, 16))
    mask = np.zeros(np.shape(rows[1].image)[:2], dtype=np.uint8)
    mask[: len(mask) // 2] = 1
    one = replace(rows[1], meta={"boxes": [[0.0, 0.0, 1.0, 0.5]], "phrases": ["top"], "masks": [mask]})
    cut = masked_regions(MemoryRows([one], name="one"), columns=MASKED, size=(16, 16))
    assert cut.masks.all()
    with pytest.raises(InputError, match="two different ones at least, got 'top' alone"):
        MaskedCropsRecipe().describe(create("tiny"), cut, seed=0)
    boxes = masked_regions(boxed(4), columns=COLUMNS, size=(16, 16))
    with pytest.raises(InputError, match="no crop has a blank patch; give masks=COLUMN"):
        MaskedCropsRecipe().describe(create("tiny"), boxes, seed=0)
