"""Regions of images: read from files, refused with their place, and named in every way."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memory_rows import MemoryRows
from tether.core.atomic_io import csv_file
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Row
from tether.data.boxes import Unit
from tether.data.region_files import BoxTable, MaskFolder, NamedRegion, open_regions
from tether.models import create
from tether.models.heads.prompted import prompted
from tether.models.heads.prompter import Prompter
from tether.models.towers.vision.alpha_stem import add_alpha_
from tether.tasks.classify.regions import REGION_WAYS, check_ways, region_rows
from tether.workflows.classify_regions import classify_regions

HEADER = "key,x0,y0,x1,y1,name\n"


def table(folder: Path, lines: str, *, header: str = HEADER) -> Path:
    path = folder / "boxes.csv"
    path.write_text(header + lines)
    return path


def mask(folder: Path, name: str, *, size: tuple[int, int] = (40, 60), inside: int = 1) -> None:
    values = np.zeros(size, np.uint8)
    values[: size[0] // 2, : size[1] // 2] = inside
    path = folder / "masks" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(values).save(path)


def test_boxes(tmp_path: Path) -> None:
    found = open_regions(table(tmp_path, "a.png,0,0,30,40,left\n'=b,1,1,2,2,\n'=b,1,1,2,3,\n"))
    (left,) = found.of("a.png", size=(40, 60))
    assert (left.name, left.box.tolist(), left.mask) == ("left", [0, 0, 0.5, 1], None)
    assert [one.name for one in found.of("=b", size=(40, 60))] == ["1", "2"]
    assert found.of("c", size=(40, 60)) == []
    assert found.unmatched(["a.png"]) == ["=b"]
    shares = BoxTable(table(tmp_path, "a.png,0,0,0.5,1,\n"))
    assert shares.of("a.png", size=(7, 9))[0].box.tolist() == [0, 0, 0.5, 1]


@pytest.mark.parametrize(
    ("lines", "asked", "unit"),
    [
        ("a,0,0,30,40,,\n", None, "pixel"),
        ("a,0,0,0.5,1,,\n", None, "share"),
        ("a,0,0,1,1,,\n", None, "share"),
        ("a,0,0,1,1,,pixel\nb,0,0,1,1,, Pixel\n", None, "pixel"),
        ("a,0,0,1,1,,pixel\n", "share", "share"),
        ("a,0,0,1,1,,\n", "pixel", "pixel"),
    ],
)
def test_unit_of_boxes(lines: str, asked: Unit | None, unit: Unit, tmp_path: Path) -> None:
    path = table(tmp_path, lines, header="key,x0,y0,x1,y1,name,unit\n")
    assert open_regions(path, unit=asked).unit == unit


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a,0,0,0.5,1,,\nb,0,0,30,40,,\n", "line 3: expected shares .* got 0, 0, 30, 40; for pixels say"),
        ("a,0,0,1.5,1,,\n", "line 2: expected shares"),
        ("a,0,0,30,40,,cm\n", "line 2: unit: expected pixel or share, got 'cm'"),
        ("a,0,0,30,40,,pixel\nb,0,0,1,1,,share\n", "line 3: unit: expected the same in all rows"),
        ("a,0,0,30,40,,pixel\nb,0,0,1,1,,\n", "line 3: unit: expected the same in all rows"),
    ],
)
def test_units_that_are_unclear(lines: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        BoxTable(table(tmp_path, lines, header="key,x0,y0,x1,y1,name,unit\n"))


def test_a_key_may_leave_out_the_ending(tmp_path: Path) -> None:
    found = BoxTable(table(tmp_path, "sub/a,0,0,30,40,\nb.JPG,0,0,30,40,\n1,0,0,30,40,\n"))
    for key in ("sub/a.png", "sub/a", "b.JPG", "b", "1"):
        assert len(found.of(key, size=(40, 60))) == 1
    assert found.of("1.5", size=(40, 60)) == found.of("b.png", size=(40, 60)) == []
    found.check(["sub/a.png", "b", "1", "1.5"])
    with pytest.raises(InputError, match=r"'sub/a': 'sub/a.png' and 'sub/a.jpg' have this name; write it with its"):
        found.check(["sub/a.png", "sub/a.jpg"])
    with pytest.raises(InputError, match=r"'a.png' and 'a': two names of one image"):
        BoxTable(table(tmp_path, "a,0,0,30,40,\na.png,0,0,30,40,\n")).check(["a.png"])


def test_any_name_can_be_written_by_a_csv_file_and_read_back(tmp_path: Path) -> None:
    keys = ["=2.png", "'=2.png", "''=2.png", "'a.png", "-0.5", "'-0.5"]
    with csv_file(tmp_path / "boxes.csv", ["key", "x0", "y0", "x1", "y1"]) as rows:
        for number, key in enumerate(keys):
            rows.write([key, 0, 0, 10 + number, 40])
    found = BoxTable(tmp_path / "boxes.csv")
    found.check(keys)
    assert [found.of(key, size=(40, 60))[0].box[2] * 60 for key in keys] == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a,0,0,1\n", "line 2: expected four numbers"),
        ("a,0,0,10,x\n", "line 2: expected four numbers"),
        ("a,0,0,9,9,\na,5,0,5,10,\n", "line 3: expected x0 < x1"),
        ("a,0,9,5,3,\n", "line 2: expected x0 < x1"),
        ("a,0,0,nan,3,\n", "line 2: expected x0 < x1"),
        ("a,0,0,5,5,n\na,0,0,6,6,n\n", "line 3: 'a' has a region 'n' already"),
        ("", "holds no box"),
    ],
)
def test_bad_boxes(lines: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as raised:
        BoxTable(table(tmp_path, lines))
    assert "boxes.csv" in str(raised.value)


def test_boxes_that_do_not_fit(tmp_path: Path) -> None:
    found = BoxTable(table(tmp_path, "a,0,0,5,5,\na,0,0,61,5,\n"))
    with pytest.raises(
        InputError, match=r"boxes.csv: line 3: expected a box inside 'a' of 60 x 40 pixels, got 0, 0, 61"
    ):
        found.of("a", size=(40, 60))
    with pytest.raises(InputError, match="line 2: expected shares"):
        BoxTable(tmp_path / "boxes.csv", unit="share")
    with pytest.raises(InputError, match="without 'y1'; known: key, x0, x1, y0"):
        BoxTable(table(tmp_path, "", header="key,x0,y0,x1\n"))
    before = csv.field_size_limit(131_072)  # which other code may have raised in this process
    try:
        with pytest.raises(InputError, match="line 1: field larger"):
            BoxTable(table(tmp_path, "", header=f"key,x0,{'y' * 200_000}\n"))
    finally:
        csv.field_size_limit(before)
    with pytest.raises(InputError, match="no image has this key") as raised:
        BoxTable(table(tmp_path, f"{'a' * 100_000},0,0,5,5,\n")).check(["a"])
    assert len(str(raised.value)) < 1000
    with pytest.raises(InputError, match="expected a table of boxes"):
        open_regions(tmp_path / "nothing")


def test_masks(tmp_path: Path) -> None:
    for name in ("a.left.png", "a.jpg.right.png", "sub/b.png"):
        mask(tmp_path, name)
    found = MaskFolder(tmp_path / "masks")
    both = found.of("a.jpg", size=(40, 60))
    assert sorted(one.name for one in both) == ["left", "right"]
    assert both[0].box.tolist() == [0, 0, 0.5, 0.5]
    assert [one.name for one in found.of("sub/b.jpg", size=(40, 60))] == ["1"]
    assert found.unmatched(["a.jpg"]) == ["sub/b.png"]
    with pytest.raises(InputError, match=r"'sub/b.png': no image has this key"):
        found.check(["a.jpg"])
    with pytest.raises(InputError, match=r"b.png: expected the 61 x 40 pixels .*, got 60 x 40"):
        found.of("sub/b.jpg", size=(40, 61))
    mask(tmp_path, "c.png", inside=0)
    with pytest.raises(InputError, match=r"c.png: expected something inside"):
        MaskFolder(tmp_path / "masks").of("c", size=(40, 60))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no mask"):
        open_regions(tmp_path / "empty")


def test_masks_of_classes_are_told_from_masks_of_a_region(tmp_path: Path) -> None:
    mask(tmp_path, "a.png")
    with Image.open(tmp_path / "masks/a.png") as image:
        values = np.array(image)
    for other, said in ((5, "numbers up to 5, which look like classes"), (254, None)):
        values[-1] = other
        Image.fromarray(values).save(tmp_path / "masks/a.png")
        if said is None:
            assert len(MaskFolder(tmp_path / "masks").of("a", size=(40, 60))) == 1
        else:
            with pytest.raises(InputError, match=said):
                MaskFolder(tmp_path / "masks").of("a", size=(40, 60))


def test_every_way_sees_the_region() -> None:
    model = create("tiny", seed=2).eval()
    stem = add_alpha_(model)
    torch.nn.init.normal_(stem.alpha, generator=torch.Generator().manual_seed(0))
    pixels = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    regions = [NamedRegion("l", np.array([0.0, 0, 0.5, 1])), NamedRegion("r", np.array([0.5, 0, 1, 1]))]
    other = pixels.clone()
    other[:, :, 40:] = 0  # outside of the left region
    for way in REGION_WAYS:
        if way == "prompter":
            model = prompted(create("tiny", seed=2).eval(), Prompter(64, state=64))
        rows = region_rows(model, pixels, regions=regions, region_as=way)
        assert rows.shape == (2, 64)
        assert not torch.allclose(rows[0], rows[1])
        unseen = region_rows(model, other, regions=regions[:1], region_as=way)[0]
        assert torch.allclose(rows[0], unseen, atol=1e-5) == (way in ("crop", "attention"))


def test_ways_that_a_model_has_not(tmp_path: Path) -> None:
    from families import FAMILIES

    plain, network = create("tiny").eval(), FAMILIES["RN50"](tmp_path)
    check_ways(plain, ["crop", "blur", "attention"])
    with pytest.raises(InputError, match="takes no alpha"):
        check_ways(plain, ["alpha"])
    with pytest.raises(InputError, match="expected a model with a prompter"):
        check_ways(plain, ["prompter"])
    with pytest.raises(InputError, match="expected different ones"):
        check_ways(plain, ["crop", "crop"])
    with pytest.raises(UnsupportedModelError, match="vision transformer"):
        check_ways(network, ["attention"])
    check_ways(network, ["crop", "blur", "patches"])


def test_bad_images_and_strange_keys(tmp_path: Path) -> None:
    rows = MemoryRows([Row("a", np.zeros((40, 60, 3), np.uint8)), Row("b", b"no image")])
    boxes = table(tmp_path, "a,0,0,30,40,\n")
    done = classify_regions(rows, ["red", "green"], model=create("tiny").eval(), regions=boxes)
    assert (len(done.labels), done.bad, done.ways) == (1, 1, ("crop",))
    with pytest.raises(InputError, match=r"boxes.csv: 'c': no image has this key"):
        classify_regions(
            rows, ["red", "green"], model=create("tiny").eval(), regions=table(tmp_path, "c,0,0,1,1,\na,0,0,1,1,\n")
        )
