"""Recipes of masks: what they learn from, and that ``tether segment`` uses what comes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from memory_rows import MemoryRows, boxed, squares
from tether.adaptation.recipes import MaskText
from tether.adaptation.recipes.class_masks import box_masks, class_masks, perturbed
from tether.core.errors import InputError
from tether.core.types import Batch, Regions, Row
from tether.models import create
from tether.models.features.windows import Windows
from tether.tasks.segment import MaftSegmenter, MtaSegmenter

SMALL = {"dim": 16, "queries": 4, "layers": 1, "doublings": 1, "batch_size": 8}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]


def halves(count: int = 16) -> MemoryRows:
    """Images whose left or right half is white, with a mask of it."""
    rows = []
    for number in range(count):
        image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
        part = slice(0, 16) if number % 2 else slice(16, 32)
        image[:, part], mask[:, part] = 255, 1
        meta = {"boxes": [[0.0, 0.0, 1.0, 1.0]], "phrases": ["white"], "masks": mask}
        rows.append(Row(str(number), image, ("half white",), meta))
    return MemoryRows(rows, name="halves")


class TestClassMasks:
    def batch(self, **regions: object) -> Batch:
        given = {
            "boxes": torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]]),
            "valid": torch.tensor([[True, True, False]]),
            "phrases": [["cat", "dog", ""]],
        }
        extra = {"regions": Regions(**given | regions)}
        return Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, dtype=torch.long), extra=extra)

    def test_boxes_stand_for_masks_and_the_rest_is_what_is_left(self) -> None:
        masks, labels = class_masks(self.batch(), ["cat", "dog", "wall"], rest="wall")
        assert labels.tolist() == [[0, 1, 2]]
        assert masks.flatten(2).sum(dim=2).tolist() == [[4, 8, 4]]
        assert masks.sum(dim=1).eq(1).all()

    def test_regions_of_one_class_are_joined_and_others_are_not_looked_at(self) -> None:
        masks, _ = class_masks(self.batch(phrases=[["cat", "cat", "dog"]]), ["cat", "dog"], rest=None)
        assert masks.flatten(2).sum(dim=2).tolist() == [[12, 0]]
        none, _ = class_masks(self.batch(phrases=[["bird", "", ""]]), ["cat", "dog"], rest=None)
        assert not none.any()

    def test_masks_are_taken_as_they_are(self) -> None:
        given = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
        given[0, 0, 1, 2] = True
        masks, _ = class_masks(self.batch(masks=given), ["cat", "dog"], rest=None)
        assert torch.equal(masks[:, 0], given[:, 0])
        assert not masks[:, 1].any()

    def test_a_box_holds_the_pixels_whose_centres_it_holds(self) -> None:
        mask = box_masks(torch.tensor([[[0.0, 0.0, 0.3, 1.0]]]), size=(2, 4))
        assert mask[0, 0].tolist() == [[True, False, False, False]] * 2

    def test_perturbed_masks_are_the_masks_and_worse_ones(self) -> None:
        masks = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
        masks[:, 0, 2:6, 2:6], masks[0, 1, :3] = True, True
        found = perturbed(masks, generator=torch.Generator().manual_seed(0))
        assert found.shape == (2, 6, 8, 8)
        assert torch.equal(found[:, :3] > 0, masks)
        assert not torch.equal(found[:, 3:] > 0, masks)
        assert not (found[:, 5] > 0).any()
        assert torch.equal(found, perturbed(masks, generator=torch.Generator().manual_seed(0)))


def test_a_head_learns_halves_and_segments_them(tmp_path: Path) -> None:
    model = create("tiny", seed=0).eval()
    recipe = {"name": "mask_text", "masks": "masks", "context": 2, "prompts": 2, "steps": 60, **SMALL}
    done = tether.adapt(model, halves(), recipe=recipe | {"learning_rate": 5e-3}, out=tmp_path / "head")
    assert any(f"tether segment PHOTOS --model {done.report.base} --head" in line for line in done.report.next)
    found = tether.segment(halves(4), "white,background", model=model, head=tmp_path / "head")
    assert found.method == "mta"
    for number, key in enumerate(found.keys):
        white = found.masks[key].mask("white")
        truth = np.zeros((32, 32), bool)
        truth[:, slice(0, 16) if number % 2 else slice(16, 32)] = True
        assert (white == truth).mean() > 0.9
    windows = MtaSegmenter(head=tmp_path / "head").prepare(model, found.classes, windows=Windows(size=48))
    assert windows.predict([torch.zeros(3, 40, 90, dtype=torch.uint8)])[0].size == (40, 90)
    with pytest.raises(InputError, match=r"--with: head: is given as --head FOLDER"):
        tether.segment(halves(4), "white,background", model=model, using=f"mta:head={tmp_path / 'head'}")
    with pytest.raises(InputError, match="--with mta: needs --head FOLDER, from tether adapt --recipe mask-text"):
        tether.segment(halves(4), "white,background", model=model, using="mta")
    with pytest.raises(InputError, match="is for --with mta, got maft"):
        tether.segment(halves(4), "white,background", model=model, using="maft", head=tmp_path / "head")
    with pytest.raises(InputError, match="expected those of the head, white, background; got white, sky"):
        MtaSegmenter(head=tmp_path / "head").prepare(model, ["white", "sky"])
    with pytest.raises(InputError, match="was fitted on an encoder with digest"):
        MtaSegmenter(head=tmp_path / "head").prepare(create("tiny", seed=1).eval(), ["white", "background"])
    with pytest.raises(InputError, match="expected one of --recipe mask-aware, got one of kind prompts"):
        MaftSegmenter(head=tmp_path / "head").prepare(model, ["white", "background"])
    with pytest.raises(InputError, match="expected the folder that tether adapt --recipe mask-text made"):
        MtaSegmenter().prepare(model, ["white", "background"])


def test_where_no_mask_is_the_likeliest_class_counts() -> None:
    amounts = torch.tensor([[[0.0, 1e-9]], [[1e-20, 0.5]]])
    found = MtaSegmenter().refine(amounts, torch.zeros(3, 1, 2, dtype=torch.uint8))
    assert found.argmax(dim=0).tolist() == [[1, 1]]
    assert found.isfinite().all()
    amounts, image = torch.tensor([[[0.9, 0.1]], [[0.3, 0.2]]]), torch.zeros(3, 1, 2, dtype=torch.uint8)
    assert MaftSegmenter(least=0.1).refine(amounts, image).argmax(dim=0).tolist() == [[0, 2]]  # there is a background


def test_a_tuned_encoder_names_masks_of_other_classes(tmp_path: Path) -> None:
    model = create("tiny", seed=0).eval()
    recipe = {"name": "mask_aware", "masks": "masks", "rest": "wall", "steps": 4, **SMALL}
    done = tether.adapt(model, halves(), recipe=recipe, out=tmp_path / "both", keep=squares(12))
    assert done.model is not None
    assert tether.segment(halves(2), "car,sky", model=done.model, head=tmp_path / "both").method == "maft"
    maft = MaftSegmenter(head=tmp_path / "both", background=["wall", "floor"], synonyms={"car": ["truck"]})
    found = maft.prepare(done.model, ["car", "sky", "road"]).predict([torch.zeros(3, 40, 60, dtype=torch.uint8)])[0]
    assert found.classes == ("car", "sky", "road", "background")
    assert np.isfinite(found.scores).all()
    assert len(maft.rows) == 6
    doubt = MaftSegmenter(head=tmp_path / "both", least=1.0).prepare(done.model, ["car", "sky"])
    assert doubt.predict([torch.zeros(3, 40, 60, dtype=torch.uint8)])[0].mask("background").all()
    with pytest.raises(InputError, match="synonyms: 'bus' is no class"):
        MaftSegmenter(head=tmp_path / "both", synonyms={"bus": ["coach"]}).prepare(done.model, ["car", "sky"])


@pytest.mark.parametrize("proposals", ["queries", "perturbed"])
def test_masks_to_be_aware_of(proposals: str) -> None:
    recipe = {"name": "mask_aware", "proposals": proposals, "start": "identity", "steps": 2, **SMALL}
    assert tether.adapt(create("tiny").eval(), boxed(), recipe=recipe, keep=squares(12)).head is not None


def test_data_without_two_classes_are_refused() -> None:
    rows = [replace(row, meta={"boxes": [], "phrases": []}) for row in squares(12).rows]
    with pytest.raises(InputError, match="expected 2 to 255 classes among the phrases, got 1"):
        tether.adapt(create("tiny").eval(), MemoryRows(rows), recipe={"name": "mask_text", "steps": 2})


class TestReportedMasks:
    def test_the_head_is_measured_beside_the_texts_alone(self) -> None:
        model = create("tiny", seed=0).eval()
        recipe = {"name": "mask_text", "masks": "masks", "context": 2, "prompts": 2, "steps": 60, **SMALL}
        done = tether.adapt(model, halves(), recipe=recipe | {"learning_rate": 5e-3})
        (found,) = [one for one in done.report.own if one.name.startswith("mean IoU of masks")]
        assert found.after.value > 0.8 > found.before.value
        assert found.verdict == "better"
        assert found.chance == pytest.approx(0.25)  # half of the pixels, of one of two classes
        assert found.n == 8

    def test_the_tuned_encoder_is_the_heads(self) -> None:
        recipe = {"name": "mask_aware", "masks": "masks", "rest": "wall", "steps": 2, **SMALL}
        done = tether.adapt(create("tiny", seed=0).eval(), halves(), recipe=recipe, keep=squares(12))
        (found,) = [one for one in done.report.own if one.name.startswith("mean IoU of masks")]
        assert 0 <= found.after.value <= 1
        assert found.chance == 1.0  # what no mask covers is not looked at under another name than background

    def test_boxes_alone_are_no_truth(self) -> None:
        recipe = {"name": "mask_text", "context": 2, "prompts": 2, "steps": 1, **SMALL}
        done = tether.adapt(create("tiny", seed=0).eval(), boxed(16), recipe=recipe)
        assert not [one for one in done.report.own if one.name.startswith("mean IoU of masks")]


def test_bad_phrases_name_no_class() -> None:
    rows = boxed(6).rows
    wanted = MaskText().classes_of(MemoryRows(rows, name="good"))
    for number, phrases in enumerate(("[", [3, 3], ["\x1b[31mred", "two\nlines"]), start=6):
        rows.append(replace(boxed(7 + number).rows[-1], meta={**rows[0].meta, "phrases": phrases}))
    assert MaskText().classes_of(MemoryRows(rows, name="some")) == wanted
    with pytest.raises(InputError, match="classes: expected text without control characters, got 'a"):
        MaskText(classes=["a\n", "b"]).classes_of(MemoryRows(rows, name="some"))
