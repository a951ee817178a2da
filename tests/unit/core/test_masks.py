"""Masks of an image: areas, boxes, COCO's run lengths, colours and palette images."""

import io
import json

import numpy as np
import pytest
from scipy import ndimage

from tether.core.errors import InputError
from tether.core.masks import BACKGROUND, NO_CLASS, Masks, run_lengths
from tether.core.palette import default_palette, palette_of

NAMES = ("road", "car", BACKGROUND)


def labels():
    found = np.full((6, 10), 2, dtype=np.uint8)
    found[3:, :] = 0
    found[4, 1:3] = found[5, 3] = 1  # touch at a corner
    found[0, 9] = NO_CLASS
    return found


def test_areas_boxes_and_what_is_not_asked_for():
    masks = Masks(NAMES, labels())
    assert masks.areas() == {"road": 27 / 60, "car": 3 / 60, BACKGROUND: 29 / 60}
    assert [(box.name, box.box, box.area) for box in masks.boxes()] == [
        ("road", (0, 3, 10, 6), 27),
        ("car", (1, 4, 4, 6), 3),
    ]
    assert [box.name for box in masks.boxes(min_area=0.1)] == ["road"]
    assert masks.mask("car").sum() == 3
    assert repr(masks) == "Masks(10 x 6: background 48%, road 45%, car 5%)"
    with pytest.raises(InputError, match=r"class 'bus': expected one of road, car, background"):
        masks.mask("bus")


def test_boxes_are_those_of_each_class_looked_for_in_the_whole_image():
    labels = np.random.default_rng(0).choice(np.array([0, 1, 3, 255], dtype=np.uint8), (13, 17), p=[0.7, 0.1, 0.1, 0.1])
    masks = Masks(("a", "b", "none", "c"), labels)
    expected = set()
    for number, name in enumerate(masks.classes):
        pieces, count = ndimage.label(labels == number, structure=np.ones((3, 3)))
        for piece in range(1, count + 1):
            rows, columns = np.nonzero(pieces == piece)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            expected.add((name, tuple(map(int, box)), len(rows)))
    assert {(one.name, one.box, one.area) for one in masks.boxes(min_area=0.0)} == expected
    assert len(expected) > 5


def test_a_piece_of_several_is_a_box_of_its_own():
    spots = np.zeros((8, 8), dtype=np.uint8)
    spots[1:3, 1:3] = spots[5:8, 4:8] = 1
    assert [box.box for box in Masks(("a", "b"), spots).boxes() if box.name == "b"] == [(4, 5, 8, 8), (1, 1, 3, 3)]


def test_run_lengths_are_those_that_pycocotools_reads():
    tools = pytest.importorskip("pycocotools.mask")
    draw = np.random.default_rng(0)
    for shape in ((1, 1), (7, 5), (3, 40)):
        for mask in (draw.random(shape) < 0.4, np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)):
            packed = tools.frPyObjects(run_lengths(mask), *shape)
            assert np.array_equal(tools.decode(packed).astype(bool), mask)


def test_coco_annotations_tell_each_class_but_the_background():
    masks = Masks(NAMES, labels())
    road, car = json.loads(json.dumps(masks.to_coco(7, first_id=3)))
    assert (road["id"], road["image_id"], road["category_id"], road["area"]) == (3, 7, 1, 27)
    assert (car["id"], car["category_id"], car["bbox"]) == (4, 2, [1, 4, 3, 2])
    assert masks.categories() == [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}]


def test_the_picture_holds_class_numbers_and_the_overlay_colours():
    from PIL import Image

    masks = Masks(NAMES, labels())
    file = io.BytesIO()
    masks.to_image().save(file, format="PNG")
    again = Image.open(file)
    assert again.mode == "P"
    assert np.array_equal(np.asarray(again), labels())
    assert again.convert("RGB").getpixel((0, 5)) == (230, 159, 0)
    assert again.convert("RGB").getpixel((5, 0)) == (0, 0, 0)
    assert again.convert("RGB").getpixel((9, 0)) == (255, 255, 255)
    grey = np.full((6, 10, 3), 100, dtype=np.uint8)
    painted = masks.overlay(grey, strength=0.5)
    assert painted[0, 0].tolist() == [100, 100, 100]  # background stays
    assert painted[5, 9].tolist() == [165, 130, 50]
    assert (painted[2, :9] > 200).all()  # the line between two classes
    assert "road 45%" in masks._repr_html_()
    with pytest.raises(InputError, match=r"image: expected uint8 \(6, 10, 3\), got uint8 \(5, 10, 3\)"):
        masks.overlay(grey[1:])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("a", "a", "b")}, "'a' comes twice"),
        ({"classes": ("a",)}, "labels: expected 0 to 0, or 255 for none, got 2"),
        ({"classes": ()}, "expected 1 to 255, got 0"),
        ({"labels": np.zeros((3, 4, 1), dtype=np.uint8)}, r"expected \(h, w\) uint8"),
        ({"labels": np.zeros((3, 4))}, r"expected \(h, w\) uint8, got float64"),
        ({"scores": np.zeros((2, 6, 10), dtype=np.float32)}, r"scores: expected \(3, r, c\)"),
        ({"palette": np.zeros((2, 3), dtype=np.uint8)}, "palette: 2 colours for 3 classes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        Masks(**{"classes": NAMES, "labels": labels()} | changes)


def test_default_colours_differ_for_every_eye_and_a_longer_palette_begins_with_the_shorter():
    many = default_palette(255)
    assert len({tuple(one) for one in many.tolist()}) == 255
    assert np.array_equal(default_palette(30), many[:30])
    with pytest.raises(InputError, match="256 classes"):
        default_palette(256)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("#ff0000,#00ff00", "2 colours for 3 classes; give 3, or none for the default"),
        ("#ff0000,green,#0000ff", "colour 2: expected #rrggbb, got 'green'"),
        (["#ff0000", "#0000ff", "#FF0000"], r"colours 1 and 3 are the same, \(255, 0, 0\)"),
        ([[0, 0, 0], [1, 2, 300], [4, 5, 6]], "colour 2: expected three whole numbers from 0 to 255"),
    ],
)
def test_a_palette_that_cannot_tell_classes_apart_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        palette_of(given, count=3)


def test_a_palette_of_ones_own():
    assert palette_of("#ff0000, 00ff00,#0000ff", count=2).tolist() == [[255, 0, 0], [0, 255, 0]]
