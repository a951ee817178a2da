"""Rows and settings of regions, latents and views that cannot be: named, replaced, bounded."""

import json

import numpy as np
import pytest
from PIL import Image

from contents import loader, photo, rows
from tables import Listed, encoded
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data.contents import BatchContents
from tether.data.latents import TensorColumn
from tether.data.placement import Placement
from tether.data.regions import MOST, RegionColumns

GOOD = [[0.1, 0.2, 0.4, 0.7], [0.5, 0.1, 0.9, 0.6]]
ONES = np.ones((60, 90), np.uint8)
FAULTS = {
    "zero-size": ({"boxes": [GOOD[0], [0.5, 0.1, 0.5, 0.6]]}, "boxes: box 1: expected a width"),
    "turned round": ({"boxes": [[0.4, 0.2, 0.1, 0.7], GOOD[1]]}, "boxes: box 0: expected a width"),
    "outside": ({"boxes": [GOOD[0], [0.5, 0.1, 1.1, 0.6]]}, "boxes: box 1: expected corners inside"),
    "pixels": ({"boxes": [[10, 20, 300, 200], GOOD[1]]}, "boxes: box 0: .*; for pixels say unit=pixel"),
    "negative": ({"boxes": [[-0.1, 0.1, 0.9, 0.6], GOOD[1]]}, "boxes: box 0: expected corners inside"),
    "NaN": ({"boxes": [GOOD[0], [float("nan"), 0.1, 0.9, 0.6]]}, "boxes: box 1: expected corners inside"),
    "three numbers": ({"boxes": [GOOD[0], [0.1, 0.9, 0.6]]}, "boxes: expected boxes of 4 numbers"),
    "digits": ({"boxes": ["0001", "0011"]}, "boxes: expected boxes of 4 numbers"),
    "nothing in a box": ({"boxes": [GOOD[0], [0.1, None, 0.5, 0.6]]}, "boxes: expected boxes of 4 numbers"),
    "words": ({"boxes": ["left", "right"]}, "boxes: expected boxes of 4 numbers"),
    "a word": ({"boxes": '"left"'}, "boxes: expected a list of boxes"),
    "no JSON": ({"boxes": "[[0.1,"}, "boxes: not valid JSON"),
    "no column": ({"boxes": ...}, "no column 'boxes'"),
    "too many": ({"boxes": [GOOD[0]] * (MOST + 1)}, f"boxes: {MOST + 1} boxes; at most {MOST}"),
    "one phrase": ({"phrases": ["x"]}, "phrases: expected 2 phrases"),
    "no phrases": ({"phrases": None}, "phrases: expected 2 phrases, one for each box, got 0"),
    "numbers as phrases": ({"phrases": [1, 2]}, "phrases: expected texts"),
    "half a letter": ({"phrases": ["x", "\ud800"]}, "phrases: expected texts"),
    "one mask": ({"masks": [ONES]}, "masks: expected 2 masks"),
    "another size": ({"masks": [ONES, ONES[:50]]}, r"masks: mask 1: expected the image's size \(60, 90\)"),
    "label map of another size": ({"masks": ONES[:, :30]}, "masks: expected the image's size"),
    "empty mask": ({"masks": [ONES, 0 * ONES]}, "masks: mask 1: expected something inside"),
    "no label": ({"masks": ONES}, "masks: mask 1: expected something inside"),
    "broken file": ({"masks": [ONES, b"\x89PNG\r\n"]}, "masks: mask 1"),
    "floats": ({"masks": [ONES, ONES / 2]}, "masks: mask 1: expected a file's bytes, or whole numbers"),
    "ragged mask": ({"masks": [ONES, [[1, 0], [1]]]}, "masks: mask 1: expected rows of equal length"),
    "no masks": ({"masks": None}, "masks: expected a list of masks"),
    "short latent": ({"vae": b"123"}, "vae: expected 24 bytes"),
    "ragged latent": ({"vae": [[1.0, 2.0, 3.0], [4.0]]}, "vae: expected numbers of shape"),
    "another shape": ({"vae": [[1.0, 2.0], [4.0, 4.0]]}, "vae: expected numbers of shape"),
    "infinite latent": ({"vae": [1.0, 2.0, 3.0, 4.0, 5.0, float("inf")]}, "vae: expected finite"),
    "no latent": ({"vae": None}, "vae: expected bytes or numbers"),
    "no column of latents": ({"vae": ...}, "no column 'vae' of latents"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_with_a_fault_is_named_and_replaced(fault, tmp_path):
    changes, message = FAULTS[fault]
    contents = {
        "regions": {"most": 2, "phrases": "phrases", "masks": "masks"},
        "latents": {"latent_image": {"column": "vae", "shape": [2, 3]}},
    }
    meta = {"boxes": GOOD, "phrases": ["x", "y"], "masks": [ONES, ONES], "vae": [1.0] * 6}
    wrong = {name: value for name, value in {**meta, **changes}.items() if value is not ...}
    listed = [Row(f"k{n}", photo(n), ("a",), wrong if n == 5 else meta) for n in range(12)]
    batches = loader(Listed(listed), contents=contents, on_bad=tmp_path / "bad.jsonl")
    keys = {key for _ in range(8) for key in next(batches).extra["keys"]}
    batches.close()
    assert keys == {f"k{n}" for n in range(12)} - {"k5"}
    (line,) = (json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines())
    assert line["key"] == "k5"
    strict = loader(Listed(listed), contents=contents, strict=True)
    with pytest.raises(InputError, match=f"'k5': {message}"):
        [next(strict) for _ in range(2)]


def test_a_row_with_one_bad_mask_is_bad_when_that_is_drawn_whoever_reads_it():
    """What one process found out of a row in an earlier epoch changes nothing in the next."""
    masks = [np.ones((60, 90), np.uint8), b"broken"]
    meta = [{"boxes": GOOD, "masks": masks[: 1 + n % 2] * (2 - n % 2)} for n in range(24)]
    source = Listed([Row(f"k{n}", photo(n), ("a",), meta[n]) for n in range(24)])
    settings = {"contents": {"regions": {"most": 1, "masks": "masks"}}}
    alone, pair = loader(source, **settings), [loader(source, rank=rank, world=2, **settings) for rank in range(2)]
    seen = []
    for step in range(16):
        if step == 9:
            later = loader(source, **settings)
            later.load_state_dict(alone.state_dict())
        batch = next(alone)
        seen.append(batch.extra["keys"])
        assert batch.extra["keys"] == [key for each in pair for key in next(each).extra["keys"]]
        if step >= 9:
            assert batch.extra["keys"] == next(later).extra["keys"]
    odd = [key for keys in seen for key in keys if int(key[1:]) % 2]
    assert 0 < len(odd) < 48


def test_masks_of_a_batch_have_a_bound(monkeypatch):
    monkeypatch.setattr("tether.data.regions.MOST_BATCH_BYTES", 10_000)
    contents = {"regions": {"most": 2, "phrases": "phrases", "masks": "masks"}}
    with pytest.raises(InputError, match="6 x 2 masks of 32 x 32: above 10,000 bytes a batch"):
        next(loader(Listed(rows()), contents=contents))


def test_masks_have_a_bound(monkeypatch):
    monkeypatch.setattr("tether.data.regions.MOST_MASK_BYTES", 10_000)
    columns = RegionColumns(most=2, masks="masks")
    with pytest.raises(InputError, match="10,800 bytes of masks; at most 10,000"):
        columns.read(Row("k", None, meta={"boxes": GOOD, "masks": [ONES, ONES]}), size=(60, 90))


def test_small_files_of_large_masks_have_a_bound(monkeypatch):
    monkeypatch.setattr("tether.data.regions.MOST_MASK_PIXELS", 2 * 60 * 90)
    columns = RegionColumns(most=3, masks="masks")
    for count, bad in ((2, False), (3, True)):
        mask = encoded(Image.fromarray(ONES))
        row = Row("big", None, meta={"boxes": [[0, 0, 1, 1]] * count, "masks": [mask] * count})
        views = {"image": (Placement(), (8, 8))}
        found = columns.read(row, size=(60, 90))
        if bad:
            with pytest.raises(InputError, match=r"big: masks: 3 masks of 60 x 90 pixels; at most 10,800"):
                columns.seen(found, np.arange(count), views, size=(60, 90), where=row.key)
        else:
            assert columns.seen(found, np.arange(count), views, size=(60, 90), where=row.key)["image"].valid.all()


@pytest.mark.parametrize("cell", [np.array(3), np.array("[[0, 0, 1, 1]]"), np.array(None)])
def test_a_cell_that_is_an_array_of_one_thing_is_that_thing_or_a_bad_row(cell):
    columns = RegionColumns(most=3)
    if cell.item() is None:
        assert not len(columns.read(Row("k", None, meta={"boxes": cell}), size=(8, 8)).boxes)
    else:
        with pytest.raises(InputError, match="k: boxes: expected a list of boxes, got"):
            columns.read(Row("k", None, meta={"boxes": cell}), size=(8, 8))


@pytest.mark.filterwarnings("error")
def test_latents_too_large_for_their_numbers_are_refused_without_a_warning():
    column = TensorColumn(column="vae", shape=[2])
    with pytest.raises(InputError, match="k: vae: expected finite numbers"):
        column.read(Row("k", None, meta={"vae": [1e300, 0.0]}))


def test_rows_without_regions_have_none():
    for nothing in (None, [], "", "[]", np.zeros((0, 4))):
        listed = [Row(f"k{n}", photo(n), ("a",), {"boxes": nothing, "m": None}) for n in range(6)]
        found = next(loader(Listed(listed), contents={"regions": {"most": 2, "masks": "m"}})).extra["regions"]
        assert not found.valid.any()
        assert found.masks.shape == (6, 2, 32, 32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crops": {"second": {}}}, "crops: second: expected a name of its own that ends in 'image'"),
        ({"crops": {"negative_image": {}}}, "crops: negative_image: expected a name of its own"),
        ({"crops": {"a_image": {"scale": [0.0, 1.0]}}}, "crops: a_image.*scale"),
        ({"crops": {"a_image": {"scale": [0.9, 0.1]}}}, "scale: expected the smaller number first"),
        ({"crops": {"a_image": {"size": 0}}}, "crops: a_image.*size"),
        ({"crops": {"a_image": {"hight": 3}}}, "unknown key 'hight'"),
        ({"crops": {"a_image": {"augment": "blurr"}}}, "unknown part 'blurr'"),
        ({"crops": {"a_image": {"around": ["b_image"]}}}, "around: expected views named before"),
        ({"crops": {"image": {"augment": "colour"}}}, "the run's own `augment`"),
        ({"captions": {"text": "first"}}, "captions: text: expected a name of its own that ends in 'text'"),
        ({"captions": {"a_text": "last"}}, "unknown part 'last'"),
        ({"regions": {}}, "key 'most' is required"),
        ({"regions": {"most": 0}}, "most"),
        ({"regions": {"most": 3, "unit": "inch"}}, "unit"),
        ({"latents": {"a_image": {"column": "x", "shape": []}}}, "shape"),
        ({"latents": {"a_image": {"column": "x", "shape": [5000, 5000]}}}, "shape"),
        ({"latents": {"latent": {"column": "x", "shape": [5]}}}, "latents: latent: expected a name"),
        ({"crops": {"a_image": {}}, "latents": {"a_image": {"column": "x", "shape": [5]}}}, "has this name already"),
        ({"images": False, "crops": {"a_image": {}}}, "nothing to cut"),
        ({"images": False, "regions": {"most": 1}}, "nothing to cut"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        BatchContents(**wrong)
