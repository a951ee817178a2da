"""Batches with views, further captions, regions, latents and rows of text alone: what they hold and what decides it."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from contents import EVERYTHING, SPEC, Letters, assert_equal, flat, loader, photo, rows
from tables import Listed, encoded
from tether.core.types import ImageSpec, Row
from tether.data import open_source
from tether.data.augment import AUGMENTATIONS
from tether.data.loader import Loader, SideBySide
from tether.data.sets.scenes import ScenesSet

WAYS = [
    pytest.param({}, id="full"),
    pytest.param({"memory": 10, "window_rows": 12}, id="window"),
    pytest.param({"workers": 3}, id="full-threads"),
    pytest.param({"memory": 10, "window_rows": 12, "workers": 2}, id="window-threads"),
]


@pytest.mark.parametrize("way", WAYS)
def test_going_on_in_the_middle_is_bit_for_bit(way):
    augment = AUGMENTATIONS["shift_scale"]()
    first = loader(Listed(rows(26, bad=(4,)), length=5), contents=EVERYTHING, augment=augment, **way)
    for _ in range(6):
        next(first)
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(Listed(rows(26, bad=(4,)), length=5), contents=EVERYTHING, augment=augment, **way)
    second.load_state_dict(state)
    for _ in range(6):
        assert_equal(flat(next(first)), flat(next(second)))
    first.close()
    second.close()


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_of_two_workers_share_what_one_would_take(way):
    source = Listed(rows(26, bad=(4, 11)), length=5)
    alone = loader(source, contents=EVERYTHING, **way)
    together = [loader(source, contents=EVERYTHING, rank=rank, world=2, **{**way, "workers": 2}) for rank in range(2)]
    for _ in range(9):
        whole, parts = flat(next(alone)), [flat(next(each)) for each in together]
        for name, value in whole.items():
            if name in ("ids", "text", "short_text", "other_text", "region_text"):  # numbered or trimmed by the share
                continue
            one, two = (part[name] for part in parts)
            same = torch.equal(value, torch.cat([one, two])) if isinstance(value, torch.Tensor) else value == one + two
            assert same, name
        for name in ("short_text", "region_text"):
            words = [row[row != 0].tolist() for part in parts for row in part[name]]
            assert [row[row != 0].tolist() for row in whole[name]] == words
    for each in (alone, *together):
        each.close()


def test_epochs_draw_other_views_and_one_row_the_same_in_every_batch_size():
    small, large = (loader(Listed(rows()), contents=EVERYTHING, batch_size=size) for size in (6, 12))
    seen = [{}, {}]
    for batches, found in zip((small, large), seen, strict=True):
        while batches.epoch < 2:
            epoch, batch = batches.epoch, next(batches)
            for key, box in zip(batch.extra["keys"], batch.extra["local_image_box"].tolist(), strict=True):
                found[epoch, key] = box
    assert seen[0] == seen[1]
    assert len(seen[0]) == 48
    assert all(seen[0][0, f"k{number}"] != seen[0][1, f"k{number}"] for number in range(24))


def test_views_show_their_boxes_of_their_own_image():
    batches = loader(Listed(rows()), contents={"crops": {**EVERYTHING["crops"], "whole_image": {"size": 40}}})
    for _ in range(8):
        batch = next(batches)
        views = {name: batch.extra[name] for name in ("reference_image", "whole_image")} | {"image": batch.image}
        for name, pixels in views.items():
            boxes, flipped = batch.extra[f"{name}_box"], batch.extra[f"{name}_flipped"]
            for key, view, box, mirrored in zip(batch.extra["keys"], pixels, boxes, flipped, strict=True):
                number = int(key[1:])
                height, width, (rows_, columns) = 60 + number, 90 - number, view.shape[1:]
                assert (view[2] == number).all()
                x0, y0, x1, y1 = box.tolist()
                across, down = (np.arange(columns) + 0.5) / columns, (np.arange(rows_) + 0.5) / rows_
                across = x0 + (across[::-1] if mirrored else across) * (x1 - x0)
                expected = ((across * width - 0.5) / (width - 1) * 255)[None, 2:-2]
                assert np.abs(view[0, 2:-2, 2:-2].numpy() - expected).max() < 3
                expected = (((y0 + down * (y1 - y0)) * height - 0.5) / (height - 1) * 255)[2:-2, None]
                assert np.abs(view[1, 2:-2, 2:-2].numpy() - expected).max() < 3


def test_regions_move_with_the_pixels_of_each_view():
    batches = loader(Listed(rows()), contents=EVERYTHING, augment=AUGMENTATIONS["shift_scale"]())
    counts = []
    for _ in range(8):
        batch = next(batches)
        for name, where in (("image", "regions"), ("local_image", "local_image_regions")):
            found, box, flipped = batch.extra[where], batch.extra[f"{name}_box"], batch.extra[f"{name}_flipped"]
            assert found.boxes.shape == (6, 3, 4)
            assert not found.valid[:, 2].any()  # there are two
            assert (found.boxes[~found.valid] == 0).all()
            assert not found.masks[~found.valid].any()
            for row, key in enumerate(batch.extra["keys"]):
                number = int(key[1:])
                assert list(found.phrases[row]) == [f"left {number}", "right", ""]
                x0, y0, x1, y1 = box[row].tolist()
                for place, (a, b, c, d) in enumerate([[0.1, 0.2, 0.4, 0.7], [0.5, 0.1, 0.9, 0.5 + number / 100]]):
                    across = [(side - x0) / (x1 - x0) for side in (a, c)]
                    across = [1 - side for side in reversed(across)] if flipped[row] else across
                    moved = np.array([across[0], (b - y0) / (y1 - y0), across[1], (d - y0) / (y1 - y0)])
                    cut = moved.clip(0, 1)
                    left = np.prod((cut[2:] - cut[:2]) / (moved[2:] - moved[:2]))
                    assert bool(found.valid[row, place]) == (left >= 0.25)
                    counts.append(left >= 0.25)
                    if left < 0.25:
                        continue
                    assert np.allclose(found.boxes[row, place], cut, atol=1e-5)
                    mask = found.masks[row, place].numpy()
                    side = mask.shape[0]
                    rows_, columns = np.nonzero(mask)
                    outer = [columns.min(), rows_.min(), columns.max() + 1, rows_.max() + 1]
                    assert (
                        np.abs(np.array(outer) - cut * side).max() < 1.5
                    )  # a pixel of the image may be of one and more
    assert 0.1 < np.mean(counts) < 0.95
    ids = batch.extra["regions"].ids
    assert (ids[:, 2] == -1).all()
    assert len(set(ids[:, 1].tolist())) == 1
    assert len(set(ids[:, 0].tolist())) == 6
    tokens = batch.extra["region_text"]
    assert bytes(tokens[1][tokens[1] != 0].tolist()[1:-1][i] for i in range(5)) == b"right"
    assert tokens.shape[0] == 18


def test_more_regions_than_places_are_drawn_those_in_sight_first():
    boxes = [[x / 10, 0.0, (x + 1) / 10, 1.0] for x in range(10)]
    meta = {"boxes": boxes, "phrases": [str(x) for x in range(10)]}
    listed = Listed([Row(f"k{n}", photo(n), ("a",), meta) for n in range(8)])
    crops = {"image": {"scale": (0.3, 0.3), "ratio": (1.0, 1.0)}}
    batches = loader(listed, contents={"crops": crops, "regions": {"most": 3, "phrases": "phrases"}}, batch_size=8)
    drawn = set()
    for _ in range(6):
        found = next(batches).extra["regions"]
        assert found.valid.all()
        for said in found.phrases:
            assert list(said) == sorted(said, key=int)
            drawn.add(tuple(said))
    assert len(drawn) > 10
    assert len({text for said in drawn for text in said}) == 10


def test_plain_images_have_regions_too():
    batch = next(loader(Listed(rows()), contents={"regions": {"most": 2}}))
    alone = next(Loader(Listed(rows()), batch_size=6, image_spec=SPEC, tokenizer=Letters(), seed=3))
    assert torch.equal(batch.image, alone.image)
    assert batch.extra["regions"].phrases is None
    assert batch.extra["regions"].masks is None
    number = int(batch.extra["keys"][0][1:])
    height, width = 60 + number, 90 - number
    margin = (1 - min(height, width) / max(height, width)) / 2
    assert batch.extra["image_box"][0, 1 if height > width else 0].item() == pytest.approx(margin, abs=0.02)


def test_plain_pairs_are_as_without_contents_and_keep_their_table():
    contents = {name: EVERYTHING[name] for name in ("captions", "latents")}
    batches = loader(Listed(rows()), contents=contents)
    plain = Loader(Listed(rows()), batch_size=6, image_spec=SPEC, tokenizer=Letters(), seed=3)
    others = set()
    for _ in range(9):
        one, two = next(batches), next(plain)
        assert torch.equal(one.image, two.image)
        assert one.extra["texts"] == two.extra["texts"]
        for key, text, other, tensor, chosen in zip(
            *(one.extra[name] for name in ("keys", "short_text", "other_text", "latent_image", "texts")), strict=True
        ):
            assert bytes(text[text != 0].tolist()[1:4]) == b"row"
            others.add((bytes(other[other != 0].tolist()[1:4]), chosen[:3]))
            assert tensor.tolist() == [[float(key[1:])] * 3] * 2
    assert len(others) == 4
    assert batches._assembler._ready.all()


def test_batches_move_with_their_regions():
    batch = next(loader(Listed(rows()), contents=EVERYTHING)).to("meta")
    assert batch.extra["regions"].boxes.device.type == "meta"
    assert batch.extra["regions"].masks.device.type == "meta"
    assert batch.extra["local_image"].device.type == "meta"


def test_scenes_have_regions_with_masks_and_phrases():
    contents = {"regions": {"most": 4, "phrases": "phrases", "masks": "labels", "unit": "pixel"}}
    source = ScenesSet(rows=12, size=64)
    batch = next(loader(source, contents=contents, image_spec=ImageSpec((64, 64))))
    found = batch.extra["regions"]
    for row, key in enumerate(batch.extra["keys"]):
        sample = source.sample(int(key.rpartition("/")[2]))
        things = len(sample.scene.things)
        assert found.valid[row].sum() == things
        assert np.allclose(found.boxes[row, :things] * 64, sample.image.boxes)
        assert all(np.array_equal(found.masks[row, i].numpy(), sample.image.mask(i)) for i in range(things))
        assert found.phrases[row][0].endswith(sample.scene.things[0].shape)


def test_hard_negatives_are_cut_out_as_their_images_are():
    listed = [
        Row(f"k{n}", photo(n), ("a",), {"negative_image": photo(n + 100), "negative_text": "b"}) for n in range(8)
    ]
    batch = next(loader(Listed(listed), contents={"crops": {"image": {"scale": (0.2, 0.4), "flip": 0.5}}}))
    assert torch.equal(batch.image[:, :2], batch.extra["negative_image"][:, :2])
    assert torch.equal(batch.image[:, 2] + 100, batch.extra["negative_image"][:, 2])


def test_rows_of_text_alone():
    some = [Row(f"k{n}", None if n % 3 == 0 else photo(n), (f"t{n}",)) for n in range(24)]
    alone = loader(Listed(some), contents={"images": False})
    assert alone.rows == 24
    batch = next(alone)
    assert batch.image.shape == (6, 3, 0, 0)
    assert batch.text.shape[0] == 6
    streamed = loader(Listed(some), contents={"images": False}, memory=10)
    assert {key for _ in range(4) for key in next(streamed).extra["keys"]} == {f"k{n}" for n in range(24)}
    only = loader(Listed(some), contents={})
    assert only.rows == 16
    assert only.bad.latest == "no image"


def test_a_second_loader_brings_all_that_its_batches_hold():
    texts = [Row(f"t{n}", None, (f"t{n}",)) for n in range(8)]
    pair = SideBySide(
        loader(Listed(rows()), contents={}),
        second=loader(Listed(texts), contents={"images": False, "captions": {"second_text": "first"}}, batch_size=4),
        prefix="more",
    )
    both = next(pair)
    assert pair.rows == 24
    assert "more_image" not in both.extra
    assert both.extra["more_text"].shape[0] == both.extra["more_second_text"].shape[0] == 4
    assert both.extra["more_keys"][0].startswith("t")
    assert both.extra["keys"][0].startswith("k")


def test_labels_travel():
    listed = [Row(f"k{n}", photo(n), ("a",), {"label": n % 4}) for n in range(8)]
    batch = next(loader(Listed(listed), contents={}))
    assert batch.extra["label"].tolist() == [int(key[1:]) % 4 for key in batch.extra["keys"]]
    named = [Row(f"k{n}", photo(n), ("a",), {"label": "ab"[n % 2]}) for n in range(8)]
    batch = next(loader(Listed(named), contents={}))
    odd = torch.tensor([int(key[1:]) % 2 for key in batch.extra["keys"]])
    assert torch.equal(batch.extra["label"][:, None] == batch.extra["label"], odd[:, None] == odd)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_of_files(kind, tmp_path):
    count, boxes = 8, [[9.0, 12.0, 27.0, 30.0], [45.0, 6.0, 36.0, 24.0]]
    for n in range(count):
        Image.fromarray(photo(n)).save(tmp_path / f"{n}.png")
    mask = np.zeros((60, 90), np.uint8)
    mask[12:42, 9:36] = 1
    mask[6:30, 45:81] = 255
    pngs = [encoded(Image.fromarray((mask == value).astype(np.uint8) * 255)) for value in (1, 255)]
    names = [f"{n}.png" for n in range(count)]
    regions = {"most": 2, "boxes": "bbox", "phrases": "said", "unit": "pixel", "form": "xywh"}
    latents = {}
    if kind == "parquet":
        table = {
            "image": names,
            "caption": ["a"] * count,
            "bbox": [boxes] * count,
            "said": [["x", "y"]] * count,
            "mask": [pngs] * count,
            "vae": pa.array([[float(n)] * 6 for n in range(count)], pa.list_(pa.float32(), 6)),
        }
        pq.write_table(pa.table(table), tmp_path / "t.parquet")
        regions["masks"] = "mask"
        latents = {"latent_image": {"column": "vae", "shape": [2, 3]}}
    else:
        with (tmp_path / "t.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["image", "caption", "bbox", "said"])
            lines.writerows([name, "a", json.dumps(boxes), '["x", "y"]'] for name in names)
    source = open_source(str(tmp_path / f"t.{kind}"))
    batch = next(loader(source, contents={"regions": regions, "latents": latents}, image_spec=ImageSpec((60, 90))))
    found = batch.extra["regions"]
    assert found.valid.all()
    assert torch.allclose(found.boxes[0], torch.tensor([[0.1, 0.2, 0.4, 0.7], [0.5, 0.1, 0.9, 0.5]]))
    assert [list(said) for said in found.phrases] == [["x", "y"]] * 6
    if kind == "parquet":
        assert np.array_equal(found.masks[3, 0].numpy(), mask == 1)
        assert np.array_equal(found.masks[3, 1].numpy(), mask == 255)
        assert (batch.extra["latent_image"][:, 1, 2] == batch.image[:, 2, 0, 0]).all()
