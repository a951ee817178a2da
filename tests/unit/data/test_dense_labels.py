"""Labels of pixels: what is stored, how it moves with crops and flips, and what of it reaches a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tether.core.errors import InputError
from tether.core.types import ImageSpec, Row
from tether.data import open_source
from tether.data.contents import BatchContents
from tether.data.dense_labels import (
    IGNORED,
    LEDGER,
    DenseLabels,
    LabelStore,
    check_aspect,
    checked_label,
    label_path,
    moved,
    read_png,
    write_label,
)
from tether.data.loader import Loader
from tether.data.placement import Placement
from tether.models.tokenizer import ClipTokenizer
from tether.tasks.label import FileLabels, PseudoLabeler
from tether.workflows.label import label

SCENES = "scenes:rows=12,ground=relief"
LEFT = Placement((0.0, 0.0, 0.5, 1.0))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    columns = {"seg": "column:classes", "depth": "column:depth", "normal": "column:normals"}
    done = label(SCENES, out=folder, classes=11, limit=10, **columns)
    assert (done.rows, done.new, done.bad) == (10, 10, 0)
    return folder


def test_what_is_stored_comes_back(store):
    row = next(iter(open_source(SCENES, where="data").read(open_source(SCENES, where="data").blocks()[0])))
    found = LabelStore(store)
    assert np.array_equal(found.read(row.key, "seg"), row.meta["classes"])
    np.testing.assert_allclose(found.read(row.key, "depth"), row.meta["depth"], atol=1e-5)
    np.testing.assert_allclose(found.read(row.key, "normal"), row.meta["normals"], atol=5e-3)
    assert found.read("no such row", "seg") is None


def test_nothing_known_stays_unknown(tmp_path):
    for task, values in (("depth", np.array([[-1.0, 0.0, 1.0]])), ("normal", np.array([[[0, 0, 0], [1.0, 0, 0]]]))):
        write_label(tmp_path / "one.png", task, values)
        raw = read_png(tmp_path / "one.png")
        assert (raw[0, 0] == 0).all()
        assert raw[0, -1].any()


def test_classes_move_by_the_nearest_pixel_and_beyond_the_image_there_are_none():
    classes = np.array([[1, 2], [3, IGNORED]], np.uint8)
    assert moved(classes, "seg", Placement(flipped=True), size=(2, 2)).tolist() == [[2, 1], [IGNORED, 3]]
    assert moved(classes, "seg", LEFT, size=(2, 2)).tolist() == [[1, 1], [3, 3]]
    wide = Placement((-0.5, 0.0, 1.5, 1.0))
    assert moved(classes, "seg", wide, size=(2, 4)).tolist() == [[255, 1, 2, 255], [255, 3, 255, 255]]


def test_depth_is_mixed_among_known_pixels_alone():
    depth = np.array([[0.0, 1.0, -1.0, -1.0]], np.float32)
    found = moved(depth, "depth", Placement(), size=(1, 2))[0, 0]
    assert found.tolist() == [0.5, -1.0]


def test_normals_keep_their_length_and_turn_with_a_flip():
    label = np.zeros((1, 2, 3), np.float32)
    label[0, 0, 0], label[0, 1, 2] = 1, 1
    found = moved(label, "normal", Placement(), size=(1, 1))[:, 0, 0]
    torch.testing.assert_close(found, torch.tensor([0.5**0.5, 0, 0.5**0.5]))
    assert moved(label, "normal", Placement(flipped=True), size=(1, 2))[0, 0].tolist() == [0.0, -1.0]


def test_labels_move_exactly_as_the_pixels_do(store):
    crops = {"image": {"scale": (0.3, 0.6), "flip": 0.5}}
    contents = BatchContents(
        crops=crops, labels={"store": str(store)}, regions={"most": 4, "masks": "labels", "unit": "pixel"}
    )
    source = open_source(SCENES, where="data")
    given = {"image_spec": ImageSpec((64, 64)), "tokenizer": ClipTokenizer(), "batch_size": 6, "seed": 0}
    batch = next(Loader(source, contents=contents, **given))
    rows = {row.key: row for block in source.blocks() for row in source.read(block)}
    known = LabelStore(store).tasks_of
    assert batch.extra["seg_classes"] == 11
    assert any(batch.extra["image_flipped"])
    for place, key in enumerate(batch.extra["keys"]):
        assert rows[key]
        seen, masks = batch.extra["image_seg"][place], batch.extra["regions"].masks[place]
        if key not in known:
            assert (seen == IGNORED).all()
            assert (batch.extra["image_depth"][place] < 0).all()
            continue
        agree = (seen != 0) == masks.any(dim=0)
        assert agree.float().mean() > 0.93  # both round at the rims of things
        x = batch.extra["image_normal"][place, 0]
        where = masks[0] if masks[0].any() else masks.any(dim=0)
        columns = torch.where(where)[1].float()
        if len(columns) > 50:  # a dome faces right on its right side, also after a flip
            assert torch.corrcoef(torch.stack([columns, x[where]]))[0, 1] > 0.3


def test_the_position_of_a_run_knows_its_labels(store, tmp_path):
    def loader(folder):
        given = {"image_spec": ImageSpec((64, 64)), "tokenizer": ClipTokenizer(), "batch_size": 4, "seed": 0}
        return Loader(open_source(SCENES, where="d"), contents=BatchContents(labels={"store": str(folder)}), **given)

    label(SCENES, out=tmp_path, depth="column:depth", limit=3)
    state = loader(store).state_dict()
    loader(store).load_state_dict(state)
    with pytest.raises(InputError, match="labels"):
        loader(tmp_path).load_state_dict(state)


def test_a_store_that_lacks_a_task_is_told_at_once_and_not_row_by_row(store, tmp_path):
    label(SCENES, out=tmp_path, depth="column:depth", limit=3)
    contents = BatchContents(labels={"store": str(tmp_path), "tasks": ["depth", "seg"]})
    with pytest.raises(InputError, match=r"^labels: .*no labels of 'seg'; known: depth"):
        Loader(
            open_source(SCENES, where="d"),
            contents=contents,
            image_spec=ImageSpec((64, 64)),
            tokenizer=ClipTokenizer(),
            batch_size=4,
            seed=0,
        )


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        ("seg", np.full((2, 2), 3), "classes below 3, or 255 for none, got 3"),
        ("seg", np.zeros((2, 2)), "whole numbers"),
        ("seg", np.zeros(2, int), r"\(h, w\)"),
        ("depth", np.full((2, 2), 1.5), "from 0 to 1"),
        ("depth", np.full((2, 2), np.nan), "finite"),
        ("normal", np.full((2, 2, 3), 0.7), "normals of length 1"),
        ("normal", np.zeros((3, 2, 2)), "h, w, 3"),
    ],
)
def test_what_is_no_label_is_refused(task, values, said):
    with pytest.raises(InputError, match=said):
        checked_label(task, values, classes=3, where="row 7")


def test_a_label_has_the_aspect_of_its_image():
    check_aspect((33, 50), (64, 96), where="row")
    with pytest.raises(InputError, match="row 7: expected the aspect"):
        check_aspect((64, 64), (64, 96), where="row 7")


def test_stores_from_outside(store, tmp_path):
    with pytest.raises(InputError, match="tether label"):
        LabelStore(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "other", "tasks": {}}')
    with pytest.raises(InputError, match="expected an index"):
        LabelStore(tmp_path)
    (tmp_path / "index.json").write_text(
        '{"format": "tether dense labels 1", "tasks": {"depth": {"name": "a", "version": ""}}}'
    )
    with pytest.raises(InputError, match="no labels of 'normal'"):
        _ = DenseLabels(store=str(tmp_path), tasks=["normal"]).tasks
    (tmp_path / "labels.jsonl").write_text('{"key": "a", "tasks": ["depth", "seg"]}')
    with pytest.raises(InputError, match=r"index\.json: does not say who made the labels of seg in labels\.jsonl"):
        LabelStore(tmp_path)
    for field, value in (("classes", '"three"'), ("classes", "256"), ("version", "[0]"), ("name", "null")):
        expert = {"name": '"a"', "version": '""', field: value}
        inside = ", ".join(f'"{name}": {given}' for name, given in expert.items())
        (tmp_path / "index.json").write_text(f'{{"format": "tether dense labels 1", "tasks": {{"seg": {{{inside}}}}}}}')
        with pytest.raises(InputError, match="expected an index of"):
            LabelStore(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"bad\.png: not a PNG"):
        read_png(tmp_path / "bad.png")
    Image.new("L", (4, 4)).save(tmp_path / "mask.jpg")
    with pytest.raises(InputError, match=r"mask\.jpg: not a PNG that can be read: of another format"):
        read_png(tmp_path / "mask.jpg")


def test_masks_in_files_beside_the_images(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(images / f"{number}.jpg")
        (images / f"{number}.txt").write_text("a street")
    Image.fromarray(rng.integers(0, 4, (20, 30), np.uint8)).save(masks / "0.png")
    Image.fromarray(rng.integers(0, 4, (20, 20), np.uint8)).save(masks / "1.png")  # of another aspect
    done = label(str(images), out=tmp_path / "labels", seg=f"files:{masks}", classes=4)
    assert (done.rows, done.bad) == (1, 1)
    assert label_path(done.folder, "0.jpg", "seg").is_file()
    with pytest.raises(InputError, match="inside"):
        FileLabels(masks, classes=4).label_row(Row("../../secret.jpg", None))


class Counted:
    """An expert that counts, and that is killed at its fourth image."""

    name, version = "counted", "1"

    def __init__(self, stop: int | None = None) -> None:
        self.calls, self.stop = 0, stop

    def __call__(self, image):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return image.float().mean(dim=0)


def test_a_stopped_labeler_goes_on(tmp_path):
    source = open_source("scenes:rows=6", where="data")
    PseudoLabeler({"depth": Counted()}, store=tmp_path / "whole").run(source)
    with pytest.raises(KeyboardInterrupt):
        PseudoLabeler({"depth": Counted(stop=4)}, store=tmp_path / "parts").run(source)
    with (tmp_path / "parts" / LEDGER).open("a") as file:
        file.write('\n{"key": "train/0/0000')  # what a crash leaves
    second = Counted()
    done = PseudoLabeler({"depth": second}, store=tmp_path / "parts").run(source)
    assert (second.calls, done.rows, done.new) == (3, 6, 3)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.png")} for name in ("whole", "parts")
    )
    assert one == two
    assert LabelStore(tmp_path / "whole").digest == LabelStore(tmp_path / "parts").digest


def test_labels_of_two_experts_are_not_mixed(tmp_path):
    source = open_source("scenes:rows=2", where="data")
    PseudoLabeler({"depth": Counted()}, store=tmp_path).run(source)
    other = Counted()
    other.version = "2"
    with pytest.raises(InputError, match="take another folder"):
        PseudoLabeler({"depth": other}, store=tmp_path).run(source)
    PseudoLabeler({"seg": lambda image: torch.zeros(64, 64, dtype=torch.long)}, store=tmp_path, classes=2).run(source)
    assert set(LabelStore(tmp_path).experts) == {"seg", "depth"}


@pytest.mark.parametrize(
    ("task", "said", "error"),
    [
        ("seg", torch.full((2, 8, 8), 0.9), "add up to 1"),
        ("seg", torch.full((8, 8), 7), "number of classes"),
        ("seg", torch.full((2, 8, 8), -1.0), "probabilities"),
        ("seg", torch.full((2, 8, 16), 0.5), "aspect"),
        ("normal", torch.full((3, 8, 8), 0.7), "length 1"),
        ("normal", torch.zeros(8, 8), r"expected \(3, h, w\)"),
    ],
)
def test_what_an_expert_must_not_say(task, said, error, tmp_path):
    with pytest.raises(InputError, match=error):
        PseudoLabeler({task: lambda image: said}, store=tmp_path).run(open_source("scenes:rows=1", where="data"))


def test_unsure_pixels_and_depth_of_any_scale(tmp_path):
    share = torch.linspace(0, 1, 8).expand(8, 8)
    depth = 40 + 2 * share.clone()
    depth[0, 0] = torch.nan
    experts = {"seg": lambda image: torch.stack([share, 1 - share]), "depth": lambda image: depth}
    source = open_source("scenes:rows=1", where="data")
    PseudoLabeler(experts, store=tmp_path, confidence=0.8).run(source)
    found, (key,) = LabelStore(tmp_path), LabelStore(tmp_path).tasks_of
    assert found.read(key, "seg")[0].tolist() == [1, 1, 255, 255, 255, 255, 0, 0]
    read = found.read(key, "depth")
    assert read[0, 0] == -1
    np.testing.assert_allclose(read[1], share[1], atol=1e-4)
