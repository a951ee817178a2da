"""Quadruples: what they show, how they are split, and how they reach a training step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.types import Block, ImageSpec, Row
from tether.data import open_source
from tether.data.loader import Loader
from tether.data.sets.scenes import Thing, short
from tether.methods.tripletclip import SceneTwins
from tether.models.tokenizer import ClipTokenizer
from tether.training import load_config, train

SPEC = ImageSpec((16, 16))
CHANGES = ("swap", "recolour", "reshape", "resize", "retexture", "break", "mend", "remove", "add", "background")


def looks(thing: Thing) -> tuple[str, ...]:
    return thing.shape, thing.colour, thing.size, thing.texture, thing.state


@pytest.mark.parametrize("change", CHANGES)
def test_twins_differ_and_captions_say_so(change) -> None:
    source = SceneTwins(quadruples=12, change=change)
    for index in range(12):
        found = source.quadruple(index)
        assert found.text != found.other_text
        assert found.scene != found.other
        assert bool(found.instruction) == (change != "swap")
        before, after = ([looks(thing) for thing in scene.things] for scene in (found.scene, found.other))
        changed = [sum(a != b for a, b in zip(one, two, strict=True)) for one, two in zip(before, after, strict=False)]
        if change == "swap":
            assert sum(changed) == 2
        elif change in ("remove", "add", "background"):
            assert set(before) <= set(after) or set(after) <= set(before)
            assert (found.scene.background != found.other.background) == (change == "background")
        else:
            assert sum(changed) == 1


def test_only_the_change_tells_twins_apart() -> None:
    row = SceneTwins(quadruples=3, change="recolour").row(1)
    other = row.meta["negative_image"]
    assert isinstance(other, np.ndarray)
    assert other.dtype == row.image.dtype == np.uint8
    differs = (other != row.image).any(axis=2)
    assert 0 < differs.mean() < 0.4


def test_a_row_is_the_same_whatever_was_read_before() -> None:
    source = SceneTwins(quadruples=600)
    block = source.blocks()[1]
    row = next(source.read(block, start=5))
    again = SceneTwins(quadruples=600).row(517)
    assert row.key == again.key
    assert row.texts == again.texts
    assert np.array_equal(row.image, again.image)


@pytest.mark.parametrize("change", ["swap", "recolour"])
def test_no_training_row_shows_what_a_held_out_row_shows(change) -> None:
    def shown(split, count) -> set[tuple]:
        source = SceneTwins(split=split, quadruples=count, change=change)
        found = [source.quadruple(index) for index in range(count)]
        scenes = [scene for one in found for scene in (one.scene, one.other)]
        return {(tuple(sorted(t.colour for t in s.things)), tuple(sorted(t.shape for t in s.things))) for s in scenes}

    train_shown, test_shown, validation_shown = shown("train", 400), shown("test", 60), shown("validation", 60)
    assert not train_shown & test_shown
    assert not train_shown & validation_shown
    assert not test_shown & validation_shown


def test_pairs_are_the_same_images_without_twins() -> None:
    quadruples, pairs = SceneTwins(quadruples=4), SceneTwins(quadruples=4, form="pairs")
    assert len(pairs) == 8
    for index in range(4):
        row, first, second = quadruples.row(index), pairs.row(2 * index), pairs.row(2 * index + 1)
        assert np.array_equal(row.image, first.image)
        assert np.array_equal(row.meta["negative_image"], second.image)
        assert (row.texts[0], row.meta["negative_text"]) == (first.texts[0], second.texts[0])
        assert "negative_text" not in first.meta


def test_captions_are_true_of_their_scene() -> None:
    found = SceneTwins(quadruples=1, change="retexture", things=(1, 1)).quadruple(0)
    thing = found.other.things[0]
    assert found.other_text == short(found.other, details=("texture", "colour"))
    assert thing.texture in found.other_text
    assert thing.texture not in found.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "compositions"}, "split"),
        ({"change": "move"}, "change"),
        ({"form": "triples"}, "form"),
        ({"template": "drew"}, "template"),
        ({"quadruples": 0}, "quadruples"),
        ({"size": 8}, "size"),
        ({"things": (1, 2)}, "a swap needs at least two"),
        ({"colours": ("mauve",)}, "mauve"),
    ],
)
def test_bad_settings_are_refused(settings, words) -> None:
    with pytest.raises(InputError, match=words):
        SceneTwins(**settings)


def test_a_world_without_such_a_change_says_so() -> None:
    source = SceneTwins(quadruples=1, change="background", backgrounds=("paper",))
    with pytest.raises(InputError, match="no background of split train found"):
        source.quadruple(0)
    with pytest.raises(InputError, match="quadruple 1 asked of 1"):
        source.quadruple(1)


def loader(source, **changes) -> Loader:
    settings = {"batch_size": 4, "image_spec": SPEC, "tokenizer": ClipTokenizer(24), "seed": 3, **changes}
    return Loader(source, **settings)


@pytest.mark.parametrize(
    "way", [{}, {"memory": 10, "window_rows": 8}, {"workers": 2}], ids=["table", "window", "threads"]
)
def test_batches_carry_the_twins_of_their_rows(way) -> None:
    source = open_source({"name": "scene_twins", "quadruples": 8, "size": 64})
    rows = {row.key: row for block in source.blocks() for row in source.read(block)}
    single = loader(source, image_spec=ImageSpec((64, 64)), **way)
    for _ in range(2):
        batch = next(single)
        tokens = ClipTokenizer(24)([str(rows[key].meta["negative_text"]) for key in batch.extra["keys"]])
        assert torch.equal(batch.extra["negative_text"], tokens)
        for pixels, negative, key in zip(batch.image, batch.extra["negative_image"], batch.extra["keys"], strict=True):
            assert np.array_equal(pixels.permute(1, 2, 0).numpy(), rows[key].image)
            assert np.array_equal(negative.permute(1, 2, 0).numpy(), rows[key].meta["negative_image"])
    single.close()


def test_both_of_a_quadruple_are_augmented_alike() -> None:
    def marked(pixels, *, draws):
        return pixels + torch.from_numpy((draws % 7).astype(np.uint8))[:, None, None, None]

    plain, changed = (next(loader(SceneTwins(quadruples=8), augment=augment)) for augment in (None, marked))
    first = (changed.image - plain.image).amax(dim=(1, 2, 3))
    second = (changed.extra["negative_image"] - plain.extra["negative_image"]).amax(dim=(1, 2, 3))
    assert torch.equal(first, second)
    assert first.unique().numel() > 1


class Few:
    """Eight rows; the negatives of chosen ones are missing or broken."""

    name, version = "few", "1"

    def __init__(self, **changed: object) -> None:
        self.changed = changed

    def blocks(self) -> list[Block]:
        return [Block("all", 8)]

    def read(self, block, *, start=0):
        inner = SceneTwins(quadruples=8)
        for index in range(start, 8):
            row = inner.row(index)
            yield replace(row, meta={**row.meta, **self.changed}) if index == 2 else row


def test_rows_whose_negative_cannot_be_opened_are_bad() -> None:
    batches = loader(Few(negative_image=b"broken"))
    keys = [key for _ in range(2) for key in next(batches).extra["keys"]]
    assert not any(key.endswith("00000002") for key in keys)
    assert batches.bad.count == 1


def test_a_batch_with_a_row_without_twin_carries_none() -> None:
    batches = loader(Few(negative_text=None), batch_size=8)
    assert "negative_text" not in next(batches).extra
    assert "negative_image" in next(batches).extra
    assert "negative_image" not in next(loader(Few(negative_image=None), batch_size=8)).extra


def test_rows_without_negatives_are_as_before() -> None:
    assert {"negative_image", "negative_text"}.isdisjoint(next(loader(SceneTwins(quadruples=8, form="pairs"))).extra)
    assert isinstance(SceneTwins(quadruples=8).row(0), Row)


@pytest.mark.parametrize("objective", ["neg_clip", "triplet_clip", "symmetric_negatives"])
def test_a_run_learns_from_quadruples(objective: str, tmp_path: Path) -> None:
    overrides = [
        "size=tiny",
        "data={name: scene_twins, quadruples: 16}",
        "step=hard_negatives",
        f"objective={{name: {objective}, duplicates: left_out}}",
        "batch_size=4",
        "micro_batch=2",
        "steps=2",
        "precision=fp32",
    ]
    records: list[dict] = []
    result = train(load_config(overrides=overrides), folder=tmp_path / "run", on_record=records.append)
    assert result.steps == 2
    assert np.isfinite(result.loss)
    assert records[0]["loss"] > 0


def test_a_run_without_quadruples_says_what_it_needs(tmp_path: Path) -> None:
    overrides = ["size=tiny", "data={name: scene_twins, quadruples: 16, form: pairs}", "step=hard_negatives", "steps=1"]
    config = load_config(overrides=[*overrides, "objective=neg_clip", "batch_size=4"])
    with pytest.raises(InputError, match=r"expected 'negative_text'.* must have it in its meta"):
        train(config, folder=tmp_path / "run")
