"""Runs in which a tower rests: its rows are computed once, kept, and read by every later epoch and run."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from families import FAMILIES
from tether.core.errors import StoppedError, TetherError, WriteError
from tether.data.features.cache import ROWS, FeatureCache
from tether.models.composed.cached import CachedEncoder
from tether.models.presets import create
from tether.models.save import save
from tether.training import load_config, train
from tether.training.dry_run import dry_run
from tether.training.locked_towers import KeptTowers, kept_where_resting, resting_sides
from tether.training.metrics_log import read_metrics

pytestmark = pytest.mark.slow

ROWS_OF_DATA = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["filepath,title"]
    for number in range(ROWS_OF_DATA):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,a thing that is number {number} of all")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    save(create("tiny", seed=0).eval(), tmp_path / "clip")
    text_only = "trainable=['text.*', log_logit_scale]"

    def made(*more: str, locked: str = text_only):
        given = [f"data={tmp_path / 'pairs.csv'}", f"model={{load: {tmp_path / 'clip'}}}", "size=tiny", "batch_size=4"]
        return load_config(
            overrides=[*given, "precision=fp32", "threads=1", "steps=9", "save_every=100", locked, *more]
        )

    return made


@pytest.fixture
def encoded(monkeypatch):
    """Rows that each side's tower has computed, whoever asked."""
    seen = {"image": 0, "text": 0}
    compute = CachedEncoder._compute

    def counted(self, side, rows):
        seen[side] += len(rows)
        return compute(self, side, rows)

    monkeypatch.setattr(CachedEncoder, "_compute", counted)
    return seen


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


LOCKED = {
    "text-only": ("trainable=['text.*', log_logit_scale]", {"image": ROWS_OF_DATA, "text": 0}),
    "image-only": ("trainable=['visual.*', log_logit_scale]", {"image": 0, "text": ROWS_OF_DATA}),
    "both": ("trainable=[log_logit_scale]", {"image": ROWS_OF_DATA, "text": ROWS_OF_DATA}),
}


@pytest.mark.parametrize("name", LOCKED)
@pytest.mark.parametrize("micro", ["null", "3"])
def test_three_epochs_compute_each_row_once_and_learn_as_if_they_had_encoded(name, micro, config, tmp_path, encoded):
    locked, expected = LOCKED[name]
    more = f"micro_batch={micro}"
    train(config(more, locked=locked), folder=tmp_path / "kept")
    assert encoded == expected
    train(config(more, "features=encode", locked=locked), folder=tmp_path / "encoded")
    assert encoded == expected
    kept, plain = weights(tmp_path / "kept"), weights(tmp_path / "encoded")
    start = weights(tmp_path / "clip")
    for key in plain:
        torch.testing.assert_close(kept[key], plain[key], atol=2e-4, rtol=1e-3)
    moved = {key for key in start if not torch.equal(start[key], kept[key])}
    assert "log_logit_scale" in moved
    assert any(key.startswith("text.") for key in moved) == (name == "text-only")
    assert any(key.startswith("visual.") for key in moved) == (name == "image-only")
    train(config(more, locked=locked), folder=tmp_path / "again")
    assert encoded == expected
    again = weights(tmp_path / "again")
    assert all(torch.equal(again[key], kept[key]) for key in kept)


def test_a_stopped_run_goes_on_bit_for_bit(config, tmp_path):
    train(config(), folder=tmp_path / "whole")
    shutil.rmtree(tmp_path / "cache")
    steps = []
    with pytest.raises(StoppedError):
        train(config(), folder=tmp_path / "run", should_stop=lambda: steps.append(0) or len(steps) == 5)
    train(config(), folder=tmp_path / "run", resume=True)
    mine, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("run", "whole")]
    assert [one["loss"] for one in records[0]] == [one["loss"] for one in records[1]]


@pytest.mark.parametrize("lost", [7, 4 * 64, 4 * 64 * 5 + 1])
def test_a_cache_cut_short_is_made_again_where_it_is_short(config, tmp_path, cache, encoded, lost):
    train(config(), folder=tmp_path / "one")
    (rows,) = cache.glob(f"features/*/{ROWS}")
    size = rows.stat().st_size
    with rows.open("r+b") as file:
        file.truncate(size - lost)
    train(config(), folder=tmp_path / "two")
    assert encoded["image"] == ROWS_OF_DATA + -(-lost // (4 * 64))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=1e-4)


def test_a_full_disk_ends_the_run_and_says_what_to_do(config, tmp_path, monkeypatch):
    def full(self, keys, rows, *, names=()):
        raise WriteError(self.folder / ROWS, OSError(28, "No space left on device"))

    monkeypatch.setattr(FeatureCache, "put", full)
    with pytest.raises(TetherError, match=r"(?s)No space left on device.*--resume"):
        train(config(), folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("augment=flip", "the locked image tower encodes each batch anew: augment changes the images"),
        (
            "contents={crops: {image: {scale: [0.4, 1.0]}}}",
            "contents: crops shows other windows of the images each time",
        ),
        ("edits=[{name: fake_quant, group: 4}]", "an edit changes what it computes"),
    ],
)
def test_why_a_locked_tower_encodes_is_said(config, tmp_path, caplog, encoded, more, said):
    train(config(more), folder=tmp_path / "run", **edits())
    assert said in caplog.text
    assert encoded["image"] == 0


def test_the_dry_run_says_whose_rows_are_kept(config):
    assert "the image tower rests" in "".join(dry_run(config(), edits={}).lines())
    assert dry_run(config("features=encode"), edits={}).kept == ()


def test_texts_that_change_each_time_are_encoded(config, tmp_path, caplog, encoded):
    train(config("caption=sentences", locked=LOCKED["image-only"][0]), folder=tmp_path / "run")
    assert "caption sentences makes other texts each time" in caplog.text
    assert encoded["text"] == 0


def test_a_cache_that_cannot_be_written_to_is_said_and_the_run_goes_on(config, tmp_path, monkeypatch, caplog, encoded):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "file"))
    train(config(), folder=tmp_path / "run")
    assert "the cache cannot be written to" in caplog.text
    assert encoded["image"] == 0
    assert isinstance(kept_where_resting(locked_clip()), type(locked_clip()))


def test_an_image_that_was_replaced_between_two_runs_is_encoded(config, tmp_path, encoded):
    train(config(), folder=tmp_path / "one")
    Image.fromarray(np.full((32, 32, 3), 77, np.uint8)).save(tmp_path / "3.png")
    train(config(), folder=tmp_path / "two")
    assert encoded["image"] == ROWS_OF_DATA + 1
    train(config("features=encode"), folder=tmp_path / "encoded")
    one, two, plain = (weights(tmp_path / name) for name in ("one", "two", "encoded"))
    for key in plain:
        torch.testing.assert_close(two[key], plain[key], atol=2e-4, rtol=1e-3)
    assert any(not torch.allclose(one[key], two[key], atol=2e-4, rtol=1e-3) for key in two)


def test_a_tower_whose_batch_norms_see_the_batch_encodes_it(config, tmp_path, caplog, encoded):
    (tmp_path / "rn50").mkdir()
    save(FAMILIES["RN50"](tmp_path / "rn50"), tmp_path / "resnet")
    given = f"model={{load: {tmp_path / 'resnet'}}}"
    train(config(given, locked="trainable=['model.token_embedding.*', '*logit_scale']"), folder=tmp_path / "run")
    assert "the locked image tower encodes each batch anew: its batch norms see the whole batch" in caplog.text
    assert encoded["image"] == 0


def test_windows_and_dropped_patches_are_encoded(config, tmp_path, encoded):
    views = "{image: {}, text: {}, crop: {source: image, crop: 0.5}, few: {source: image, keep_patches: 0.5}}"
    terms = "[objective, {name: clip, image: crop, text: text}, {name: clip, image: few, text: text}]"
    train(config(f"step={{views: {views}, terms: {terms}}}"), folder=tmp_path / "run")
    assert encoded["image"] == ROWS_OF_DATA


def test_another_size_of_the_same_images_is_another_row(config, tmp_path, encoded, monkeypatch):
    sizes = []
    call = KeptTowers.__call__
    monkeypatch.setattr(KeptTowers, "__call__", lambda self, batch: sizes.append(batch.names) or call(self, batch))
    views = "{image: {}, text: {}, same: {source: image, size: 32}}"
    terms = "[objective, {name: clip, image: same, text: text}]"
    train(config(f"step={{views: {views}, terms: {terms}}}"), folder=tmp_path / "run")
    assert encoded["image"] == ROWS_OF_DATA
    assert all(len(names) == 8 for names in sizes if names)


def test_which_sides_rest():
    model = create("tiny")
    assert resting_sides(model) == set()
    assert resting_sides(locked_clip()) == {"image"}
    shared = create("tiny", **SHARED)
    shared.visual.requires_grad_(False)
    assert resting_sides(shared) == {"image"}
    half = create("tiny")
    half.visual = None  # as the tower of a composed encoder
    assert resting_sides(half) == set()


SHARED = {"towers": "shared", "text": {"position": "learned"}}


def locked_clip():
    model = create("tiny")
    model.visual.requires_grad_(False)
    return model


def edits():
    from tether.workflows.edits import EDITS

    return {"edits": EDITS}
