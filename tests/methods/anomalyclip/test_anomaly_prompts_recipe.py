"""The recipe anomaly_prompts: what is known of images, what prompts learn, the head's file, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from memory_rows import MemoryRows, damaged, squares
from tether.adaptation.heads import DefectTextsHead, load_head
from tether.adaptation.recipes import Given, play
from tether.adaptation.recipes.defect_rows import read_defects
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Features, Row
from tether.data.defect_truths import DefectTruths, mask_at
from tether.methods.anomalyclip import AnomalyPromptsRecipe
from tether.models import create
from tether.models.composed.cached import CachedEncoder
from tether.models.features.image_digest import image_digest
from tether.models.features.value_attention import ValueRows
from tether.models.texts.defect_texts import DefectTexts
from tether.models.towers.clip import Clip
from tether.tasks.anomaly import AnomalyclipDetector

SETTINGS = {"name": "anomaly_prompts", "epochs": 2, "length": 4}


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


def changed(rows: MemoryRows, change: Callable[[int, Row], Row]) -> MemoryRows:
    return MemoryRows([change(number, row) for number, row in enumerate(rows.rows)], name="changed")


def png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def test_masks_come_from_a_column_or_a_folder(tmp_path: Path) -> None:
    mask = np.zeros((6, 4), np.uint8)
    mask[1, 2] = 7
    Image.fromarray(mask).save(tmp_path / "a.png")
    given = {"array": mask, "colours": np.stack([mask] * 3, axis=2), "file": png(mask), "path": str(tmp_path / "a.png")}
    for value in given.values():
        found = DefectTruths().read(Row("a", None, meta={"mask": value}))
        assert found is not None
        assert found.defective
        assert found.mask is not None
        assert np.array_equal(found.mask, mask > 0)
    folder = DefectTruths(tmp_path, normal=("fine",))
    found = folder.read(Row("a.jpg", None, meta={"mask": mask * 0}))  # the folder counts alone
    assert found is not None
    assert found.defective
    assert folder.read(Row("b", None)) is None
    for word, defective in (("fine", False), ("good", True)):
        found = folder.read(Row("b", None, meta={"label": word}))
        assert found is not None
        assert found.defective == defective
        assert (found.mask is None) == defective
    assert mask_at(mask > 0, (12, 8)).sum() == 4
    assert mask_at(mask > 0, (3, 2)).shape == (3, 2)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"mask": np.ones((4, 4)), "label": "good"}, "a: its mask shows a defect, but its label is 'good'"),
        ({"mask": np.ones(4)}, r"a: mask: expected a mask \(h, w\), got \(4,\)"),
        ({"mask": b"no image"}, "a: mask: "),
        ({"mask": "nowhere.png"}, "nowhere.png"),
        ({"mask": "bad"}, "bad.*; column= names a column of masks, label= one of words"),
        ({"mask": 3.5}, "a: mask: expected bytes, a path, a Pillow image or uint8 pixels, got float"),
    ],
)
def test_masks_that_are_none(meta: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DefectTruths().read(Row("a", None, meta=meta))


def test_what_is_not_known_is_left_out_and_an_unknown_place_counts_for_the_image_alone(model: Clip) -> None:
    def change(number: int, row: Row) -> Row:
        if number % 2 and number < 8:
            return replace(row, meta={"label": "crack"})
        return replace(row, meta={}) if number == 8 else row

    reader = ValueRows(model)
    found = read_defects(reader, changed(damaged(12), change), DefectTruths())
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1]
    assert found.masked.tolist() == [not label or number >= 8 for number, label in enumerate(found.labels.tolist())]
    assert found.masks.flatten(1).any(dim=1).tolist() == [number in (8, 10) for number in range(11)]
    assert reader.features(found.rows).patches.shape == (1, 11, 16, 64)


def test_images_are_read_once(model: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    read, rows = list[int](), damaged(12)
    whole = ValueRows.encode_image

    def counted(self: ValueRows, image: torch.Tensor, *, mask: torch.Tensor | None = None) -> Features:
        read.append(len(image))
        return whole(self, image, mask=mask)

    monkeypatch.setattr(ValueRows, "encode_image", counted)
    recipe = AnomalyPromptsRecipe(epochs=3, length=4)
    for _ in range(2):
        play(recipe.tuning(model, Given("images", rows, len(rows.rows))), model)
    assert sum(read) == 12


def test_prompts_learn_what_is_damaged(model: Clip) -> None:
    rows = damaged(24)
    recipe = AnomalyPromptsRecipe(epochs=20, length=4, learning_rate=1e-2)
    losses: list[float] = []
    given = Given("images", rows, len(rows.rows))
    outcome = play(recipe.tuning(model, given), model, on_step=lambda one: losses.append(float(one.loss))).outcome
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    assert outcome is not None
    assert isinstance(outcome.head, DefectTextsHead)
    detector = AnomalyclipDetector(head=outcome.head.inner).prepare(model, "square")
    images = [torch.from_numpy(row.image).permute(2, 0, 1) for row in rows.rows]
    masks = np.stack([mask_at(row.meta["mask"] > 0, (32, 32)) for row in rows.rows])
    maps = np.stack([one.values for one in detector.predict(images)])
    assert maps[masks].mean() > maps[~masks].mean() + 0.1


def test_a_head_is_kept_measured_and_finds_defects(model: Clip, tmp_path: Path) -> None:
    done = tether.adapt(model, damaged(60), recipe=SETTINGS, out=tmp_path / "head", test=damaged(20, seed=1))
    assert [one.name[:5] for one in done.report.own] == ["image", "pixel"]
    assert "tether detect PHOTOS" in "".join(done.report.next)
    assert "--with anomalyclip --head" in "".join(done.report.next)
    head = load_head(tmp_path / "head", model=model)
    assert isinstance(head, DefectTextsHead)
    assert head.classes == ("normal", "defective")
    scenes = "scenes:rows=3,size=64"
    found = tether.detect(scenes, model=model, head=tmp_path / "head", good="scenes:rows=6,size=64,seed=1")
    plain = tether.detect(scenes, model=model, using="anomalyclip")
    assert (found.method, plain.method) == ("anomalyclip", "anomalyclip")
    assert found.good.threshold is not None
    assert not np.allclose(found.scores, plain.scores)
    again = tether.detect(scenes, model=model, head=head, using="anomalyclip:blur=0")
    assert np.allclose(found.scores, again.scores)  # good images change no score
    assert not np.allclose(found.maps[found.keys[0]].values, again.maps[found.keys[0]].values)
    rows = torch.randn(4, 64)
    reader = head.reader(model)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert head.logits(rows).shape == (4, 2)
    (one,) = AnomalyclipDetector(head=head.inner).prepare(model, "any").predict([image[0]])
    with torch.no_grad():
        said = head.logits(reader.encode_image(image).pooled).softmax(dim=1)[0, 1]
    assert one.score == pytest.approx(float(said), abs=1e-5)


def test_other_sizes_and_blocks_travel_with_the_head(model: Clip, tmp_path: Path) -> None:
    spec = SETTINGS | {"image_size": 48, "layers": [0, 1], "blocks": 1, "post_norm": True, "epochs": 1}
    tether.adapt(model, damaged(40), recipe=spec, out=tmp_path / "head")
    head = load_head(tmp_path / "head", model=model)
    assert isinstance(head, DefectTextsHead)
    detector = AnomalyclipDetector(head=head.inner).prepare(model, "tile")
    (look,) = detector.look([torch.zeros(3, 60, 20, dtype=torch.uint8)])
    assert (look.grid, len(look.rows)) == ((6, 6), 3)
    assert detector.judge(look).values.shape == (48, 48)


def test_bad_data_are_refused(model: Clip, tmp_path: Path) -> None:
    good = changed(damaged(12), lambda number, row: replace(row, meta={"mask": np.zeros((4, 4), np.uint8)}))
    with pytest.raises(InputError, match=r"changed.*got \d+ normal and 0 defective; masks are black for normal"):
        tether.adapt(model, good, recipe=SETTINGS)
    with pytest.raises(InputError, match=r"got 0 normal and 0 defective, and \d+ of which nothing is known"):
        tether.adapt(model, changed(squares(12), lambda _, row: replace(row, meta={}, texts=())), recipe=SETTINGS)
    with pytest.raises(InputError, match=r"masks: .*no such folder"):
        tether.adapt(model, damaged(12), recipe=SETTINGS | {"masks": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"deep": 9}, "at most 1 blocks after the first"),
        ({"length": 30}, "tokens more than the 24 that the model reads"),
        ({"deep": 1, "deep_length": 5}, "4 places of the context"),
        ({"blocks": 9}, "blocks: expected at most the 2 of the image tower, got 9"),
        ({"layers": [5]}, "layer: expected -2 to 1, got 5"),
        ({"image_size": 33}, "multiple"),
        ({"words": ["object."]}, "words"),
        ({"words": ["a", "b", "c"]}, "words"),
    ],
)
def test_settings_that_do_not_fit(model: Clip, more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tether.adapt(model, damaged(12), recipe=SETTINGS | more)


def test_heads_of_other_encoders_and_methods(model: Clip, tmp_path: Path) -> None:
    from tether.adaptation.heads import LinearHead

    scenes = "scenes:rows=2,size=64"
    head = DefectTextsHead(DefectTexts(torch.randn(2, 64))).bind_(model)
    assert head.encoder == image_digest(model)
    with pytest.raises(InputError, match="was fitted on an image side with digest"):
        tether.detect(scenes, model=create("tiny", seed=2).eval(), head=head)
    with pytest.raises(InputError, match="is for --with anomalyclip, got winclip"):
        tether.detect(scenes, model=model, head=head, using="winclip")
    linear = LinearHead(torch.eye(2, 64), classes=("a", "b")).bind_(model)
    with pytest.raises(InputError, match="expected one that tether adapt made by anomaly-prompts"):
        tether.detect(scenes, model=model, head=linear)
    with pytest.raises(InputError, match="head: is given as --head FOLDER"):
        tether.detect(scenes, model=model, using="anomalyclip:head=x")
    with pytest.raises(InputError, match="the detector that is given has its own"):
        tether.detect(scenes, model=model, using=AnomalyclipDetector(), head=head)
    with pytest.raises(InputError, match="blocks: the head says it"):
        tether.detect(scenes, model=model, using="anomalyclip:blocks=1", head=head)
    with pytest.raises(InputError, match="is for embeddings of length 32, the model's have 64"):
        AnomalyclipDetector(head=DefectTexts(torch.randn(2, 32))).prepare(model, "tile")
    with pytest.raises(InputError, match=r"is for embeddings of length 32, the model's have 64"):
        DefectTextsHead(DefectTexts(torch.randn(2, 32))).bind_(model)


@pytest.mark.parametrize("rows", [torch.randn(3, 8), torch.full((2, 8), torch.nan)])
def test_texts_that_are_none(rows: torch.Tensor) -> None:
    with pytest.raises(InputError, match="rows: expected two finite ones"):
        DefectTexts(rows)
    with pytest.raises(InputError, match="layers: expected one block at least"):
        DefectTexts(torch.randn(2, 8), layers=())


def test_a_model_without_patches_is_refused(tmp_path: Path) -> None:
    from encoders import ENCODERS

    with pytest.raises(UnsupportedModelError):
        tether.adapt(ENCODERS["open_clip"](tmp_path), damaged(12), recipe=SETTINGS)
    with pytest.raises(UnsupportedModelError):
        AnomalyclipDetector().prepare(ENCODERS["open_clip"](tmp_path), "tile")


def test_rows_are_those_of_the_reader_through_the_cache(model: Clip) -> None:
    reader = ValueRows(model)
    found = read_defects(reader, damaged(6), DefectTruths())
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(row.image).permute(2, 0, 1) for row in damaged(6).rows])
        torch.testing.assert_close(found.rows, reader.encode_image(pixels).pooled)
    assert CachedEncoder(reader).dim == reader.dim
