"""Masks and labels in folders: names of files, what is kept, what is refused; and the COCO file."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tether.core.errors import InputError
from tether.core.masks import BACKGROUND, Masks
from tether.data.mask_files import LabelFolder, MaskStore, coco_file

CLASSES = ("road", "car", "sky")


def masks(size=(4, 6), *, number=1):
    labels = np.zeros(size, dtype=np.uint8)
    labels[1:, 2:] = number
    return Masks(CLASSES, labels)


def png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("street.jpg", "street.png"),
        ("a/b.PNG", "a/b.png"),
        ("row 7", "row 7.png"),
        ("v1.2", "v1.2.png"),
        (".hidden.jpg", ".hidden.png"),
    ],
)
def test_a_key_names_its_file(key, name, tmp_path):
    assert MaskStore(tmp_path).name(key) == name


@pytest.mark.parametrize(
    "key",
    [
        "../up.jpg",
        "/etc/passwd",
        "a//b.jpg",
        "a/../b",
        "con.jpg",
        "a:b",
        "x\0y",
        "\ud800",
        "k" * 500,
        "",
        "a./b",
        "図" * 81,
    ],
)
def test_a_key_that_no_file_can_have_is_hashed(key, tmp_path):
    name = MaskStore(tmp_path).name(key)
    assert len(name) == 36
    assert MaskStore(tmp_path).write(key, masks(), made_of="x").parent == tmp_path


def test_keys_that_would_share_a_file_do_not(tmp_path):
    folder = MaskStore(tmp_path)
    assert [folder.name(key) for key in ("a.jpg", "a.png", "A.jpg", "a.jpg")] == [
        "a.png",
        "a.png.png",
        "A.jpg.png",
        "a.png",
    ]


@pytest.mark.parametrize("keys", [("a.jpg", "a.png/b.jpg"), ("a.PNG/b.jpg", "a.jpg")])
def test_a_file_and_a_folder_never_share_a_name(keys, tmp_path):
    folder = MaskStore(tmp_path)
    paths = [folder.write(key, masks(), made_of="x") for key in keys]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [folder.name(key) for key in keys]
    assert all(path.is_file() for path in paths)


def test_a_pipe_in_the_place_of_a_mask_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: is there already and is no mask of Tether's"):
        MaskStore(tmp_path, replace=True).read("a.jpg", CLASSES, made_of="x", size=(4, 6))


def test_masks_of_the_same_are_kept_and_of_something_else_refused(tmp_path):
    folder = MaskStore(tmp_path / "new")
    assert folder.read("a.jpg", CLASSES, made_of="x", size=(4, 6)) is None
    path = folder.write("a.jpg", masks(), made_of="x")
    again = folder.read("a.jpg", CLASSES, made_of="x", size=(4, 6))
    assert np.array_equal(again.labels, masks().labels)
    with pytest.raises(InputError, match=r"a\.png: was made with other settings, classes, model or image"):
        folder.read("a.jpg", CLASSES, made_of="y", size=(4, 6))
    assert MaskStore(tmp_path / "new", replace=True).read("a.jpg", CLASSES, made_of="y", size=(4, 6)) is None
    path.write_bytes(path.read_bytes()[:-30])  # damaged after its mark
    assert folder.read("a.jpg", CLASSES, made_of="x", size=(4, 6)) is None


def test_a_file_that_is_no_mask_is_never_written_over(tmp_path):
    png(tmp_path / "photo.png", np.zeros((4, 6, 3), dtype=np.uint8))
    for replace in (False, True):
        with pytest.raises(InputError, match="is there already and is no mask of Tether's; give another folder"):
            MaskStore(tmp_path, replace=replace).read("photo.png", CLASSES, made_of="x", size=(4, 6))


def test_labels_grey_or_with_a_palette(tmp_path):
    values = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
    png(tmp_path / "a.png", values)
    palette = Image.fromarray(values)
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(tmp_path / "b.jpg.png")
    labels = LabelFolder(tmp_path, CLASSES)
    for key in ("a.jpg", "a", "b.jpg"):
        assert np.array_equal(labels.read(key, size=(2, 3)), values)
    assert labels.read("c.jpg", size=(2, 3)) is None
    assert "no file for any of 1 images, such as 'aa.jpg'; " in str(labels.nothing_for(["aa.jpg"]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((3, 3), dtype=np.uint8), r"a\.png: expected the 3 x 2 pixels of its image 'a', got 3 x 3"),
        (
            np.array([[0, 1, 2], [3, 9, 255]], dtype=np.uint8),
            r"a\.png: class 3 is unknown; expected 0 \(road\) to 2 \(sky\), or 255 for none",
        ),
        (np.zeros((2, 3, 3), dtype=np.uint8), r"a\.png: expected class numbers, as a grey or palette PNG, got colours"),
        (np.full((2, 3), 700, dtype=np.uint16), r"a\.png: class 700 is unknown"),
    ],
)
def test_labels_that_do_not_fit_are_refused(values, said, tmp_path):
    png(tmp_path / "a.png", values)
    with pytest.raises(InputError, match=said):
        LabelFolder(tmp_path, CLASSES).read("a", size=(2, 3))


@pytest.mark.parametrize(("no_class", "told"), [(0, [255, 0, 1, 2]), (1, [0, 255, 1, 2]), (3, [0, 1, 2, 255])])
def test_classes_are_counted_without_the_value_of_none(tmp_path, no_class, told):
    png(tmp_path / "a.png", np.array([[0, 1, 2, 3, 255]], dtype=np.uint8))
    labels = LabelFolder(tmp_path, CLASSES, no_class=no_class)
    assert labels.read("a", size=(1, 5)).tolist() == [[*told, 255]]
    png(tmp_path / "a.png", np.array([[0, 4]], dtype=np.uint8))
    with pytest.raises(InputError, match=f"class 4 is unknown; .* or {no_class} for none"):
        labels.read("a", size=(1, 2))
    with pytest.raises(InputError, match="no_class: expected a value of pixels, 0 to 255, got 256"):
        LabelFolder(tmp_path, CLASSES, no_class=256)


def test_a_folder_without_labels(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        LabelFolder(tmp_path / "none", CLASSES)
    with pytest.raises(InputError, match="holds no PNG"):
        LabelFolder(tmp_path, CLASSES)


def test_the_coco_file_is_read_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco").COCO
    named = Masks(("road", BACKGROUND, "sky"), masks(number=2).labels)
    with coco_file(tmp_path / "masks.json", named.categories()) as file:
        file.add("a.jpg", named, file_name="a.png")
        file.add("sub/b.jpg", masks((5, 5), number=0), file_name="sub/b.png")
    read = coco(tmp_path / "masks.json")
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == ["road", "sky"]
    assert [one["file_name"] for one in read.loadImgs([1, 2])] == ["a.jpg", "sub/b.jpg"]
    for number, one in read.anns.items():
        assert number == one["id"]
    sky = next(one for one in read.loadAnns(read.getAnnIds(imgIds=[1])) if one["category_id"] == 3)
    assert np.array_equal(read.annToMask(sky), masks(number=2).labels == 2)


def test_an_empty_coco_file_is_json(tmp_path):
    with coco_file(tmp_path / "masks.json", []):
        pass
    assert json.loads((tmp_path / "masks.json").read_text())["annotations"] == []
