"""tether segment: masks, tables and a page; going on; labels; and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.locks import LOCK
from tether.core.model_digest import encoder_digest
from tether.data import open_source
from tether.data.words import FILE as WORDS
from tether.data.words import count_words
from tether.models import create
from tether.tasks.segment import DenseSegmenter, TokenSegmenter

CLASSES = "road,car,sky"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three sizes, one of them in a folder and one broken, labels of two, and a model with random weights."""
    folder = tmp_path_factory.mktemp("segment")
    tether.save(create("tiny", seed=1), folder / "model")
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 70)), ("b.png", (32, 32)), ("sub/c.jpg", (90, 50))):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    (folder / "labels").mkdir()
    for name, size in (("a.png", (40, 70)), ("b.png", (32, 32))):
        values = rng.choice([0, 1, 2, 255], size).astype(np.uint8)
        Image.fromarray(values).save(folder / "labels" / name)
    return folder


@pytest.fixture
def segment(place: Path, call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(*more: object, classes: str = CLASSES, model: object = None, code: int = 0) -> Any:
        where = ["--model", place / "model" if model is None else model, "--out", tmp_path / "masks"]
        return call("segment", place / "photos", "--classes", classes, *where, *more, code=code)

    return run


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file))


def test_masks_tables_boxes_and_a_page(segment: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    page, told = tmp_path / "seg.html", tmp_path / "told.json"
    said = segment("--boxes", "--min-area", 0.01, "--labels", place / "labels", "--html", page, "--json", told)
    out = tmp_path / "masks"
    assert said.out == f"{out}: masks of 3 images by values\n"
    assert "2 labelled images, 95 % intervals over images; 1 images have no label\nmIoU " in said.err
    assert "1 bad row was skipped" in said.err
    found = {one.relative_to(out).as_posix() for one in out.rglob("*") if one.is_file()}
    assert found == {"a.png", "b.png", "sub/c.png", "masks.json", "areas.csv", "boxes.csv", LOCK}
    mask = Image.open(out / "sub" / "c.png")
    assert (mask.mode, mask.size) == ("P", (50, 90))
    head, *areas = rows(out / "areas.csv")
    assert head == ["key", *CLASSES.split(",")]
    assert [row[0] for row in areas] == ["a.jpg", "b.png", "sub/c.jpg"]
    assert all(abs(sum(map(float, row[1:])) - 1) < 1e-5 for row in areas)
    head, *boxes = rows(out / "boxes.csv")
    assert head == ["key", "class", "x0", "y0", "x1", "y1", "area"]
    assert {row[0] for row in boxes} == {"a.jpg", "b.png", "sub/c.jpg"}
    coco = json.loads((out / "masks.json").read_text())
    assert [one["masks"] for one in coco["images"]] == ["a.png", "b.png", "sub/c.png"]
    report = json.loads(told.read_text())["report"]
    low, high = report["miou"]["interval"]
    assert low <= report["miou"]["value"] <= high
    assert report["images"] == 2
    text = page.read_text()
    share = json.loads(told.read_text())["one_class"]["accuracy"]
    verdict = f"{json.loads(told.read_text())['one_class']['name']} at every pixel would have mIoU {share / 3:.1%}"
    assert "pixel accuracy not shown to be better than that\n" in said.err
    for part in ("3 images, 3 classes, by values", "Mean IoU", "sub/c.jpg", 'data-view="truths"', "sky", verdict):
        assert part in text


def test_a_second_run_keeps_what_is_there(
    segment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment()
    before = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "masks").rglob("*.png")}
    (tmp_path / "masks" / "b.png").unlink()
    looked: list[int] = []
    predict = DenseSegmenter.predict

    def counted(self: DenseSegmenter, images: Any) -> Any:
        looked.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(DenseSegmenter, "predict", counted)
    assert segment().out.endswith("masks of 3 images by values, 2 kept from before\n")
    assert sum(looked) == 1
    after = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "masks").rglob("*.png")}
    assert {name for name in after if after[name] != before[name]} == {"b.png"}


def test_a_second_run_writes_its_page_again_but_no_page_of_others(segment: Callable[..., Any], tmp_path: Path) -> None:
    more = ["--html", tmp_path / "seg.html", "--json", tmp_path / "told.json"]
    (tmp_path / "seg.html").write_text("another's")
    assert "seg.html is there already; give another name" in segment(*more, code=2).err
    (tmp_path / "seg.html").unlink()
    segment(*more)
    page = (tmp_path / "seg.html").read_bytes()
    segment(*more)
    assert (tmp_path / "seg.html").read_bytes() == page
    assert "was made with other settings" in segment(*more, "--size", 48, code=2).err
    assert (tmp_path / "seg.html").read_bytes() == page


def test_other_settings_are_refused_or_replace_the_masks(segment: Callable[..., Any], tmp_path: Path) -> None:
    segment("--size", 40)
    said = segment("--size", 48, code=2)
    assert (
        "a.png: was made with other settings, classes, model or image; give another folder, or --existing" in said.err
    )
    segment("--size", 48, "--existing", "replace")
    assert segment("--size", 48).out.endswith("3 kept from before\n")


def test_a_file_in_place_of_the_folder_is_refused(segment: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "masks").write_text("mine")
    same = segment("--html", tmp_path / "masks", "--existing", "replace", code=2).err
    assert f"--html: {tmp_path / 'masks'} is --out, too; give it another name" in same
    assert f"--out: {tmp_path / 'masks'} is a file; expected a folder" in segment(code=2).err


def test_a_folder_of_photos_is_never_written_over(place: Path, call: Callable[..., Any]) -> None:
    for out in (place / "photos", place / "photos" / "masks", f"{place}/labels/../photos"):
        more = ["--model", place / "model", "--out", out, "--existing", "replace"]
        said = call("segment", place / "photos", "--classes", CLASSES, *more, code=2)
        assert f"--out: {out} is in the folder of the images; give another" in said.err
    more = ["--model", place / "model", "--out", place / "labels", "--existing", "replace"]
    said = call("segment", place / "photos", "--classes", CLASSES, *more, code=2)
    assert "a.png: is there already and is no mask of Tether's; give another folder" in said.err


def test_masks_in_the_working_folder(
    place: Path, call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("segment", place / "photos", "--classes", CLASSES, "--model", place / "model", "--out", ".")
    assert {"a.png", "masks.json", "..bad_rows.jsonl"} <= {one.name for one in tmp_path.iterdir()}


def test_masks_never_lie_among_labels(segment: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes((place / "labels" / "a.png").read_bytes())
    said = segment("--labels", tmp_path / "masks", code=2)
    assert "masks is in the folder of the labels; give another" in said.err
    assert [one.name for one in (tmp_path / "masks").iterdir()] == ["a.png"]


def test_a_folder_that_another_process_writes_to_is_refused(
    segment: Callable[..., Any], holder: Callable[..., Any], tmp_path: Path
) -> None:
    other = '{"source": "x", "key": "of the other process", "error": "y"}\n'
    (tmp_path / "masks.bad_rows.jsonl").write_text(other)
    with holder(tmp_path / "masks", "tether segment") as number:
        assert f"process {number} on " in segment(code=2).err
    assert not list(tmp_path.rglob("*.png"))
    assert (tmp_path / "masks.bad_rows.jsonl").read_text() == other
    (tmp_path / "masks" / "sub").symlink_to(tmp_path)
    assert "sub: a link, a pipe or a device in a folder that tether segment writes to" in segment(code=2).err


@pytest.mark.parametrize(
    ("classes", "more", "said"),
    [
        ("car", [], "classes: 'car' alone would be everywhere; name what else there is"),
        ("car;sky", [], "classes: 'car;sky' is one name; expected commas between names"),
        ("car,sky,car", [], "class 'car' comes twice (numbers 1 and 3)"),
        ("", [], "expected at least one class, got none"),
        (
            CLASSES,
            ["--palette", "#ff0000,#00ff00"],
            "palette: 2 colours for 3 classes; give 3, or none for the default",
        ),
        (CLASSES, ["--palette", "#ff0000,red,#00ff00"], "palette: colour 2: expected #rrggbb, got 'red'"),
        (CLASSES, ["--with", "dinosaur"], "--with: unknown part 'dinosaur'; did you mean 'dinoiser'?"),
        (CLASSES, ["--with", "values:least=2"], "least"),
        (CLASSES, ["--with", "values:background=[x]", "--background", "y"], "background: is given twice"),
        (CLASSES, ["--scales", "1,zero"], "scales"),
        (CLASSES, ["--window", "33"], "image_size: expected multiples of 8 (the patch), got (33, 33)"),
        (CLASSES, ["--labels", "nowhere"], "labels: nowhere: no such folder"),
        (",".join(f"thing {number}" for number in range(256)), [], "classes: expected 1 to 255, got 256"),
    ],
)
def test_bad_options_are_refused(
    segment: Callable[..., Any], classes: str, more: list[str], said: str, tmp_path: Path
) -> None:
    assert said in segment(*more, classes=classes, code=2).err
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((32, 40), dtype=np.uint8), "b.png: expected the 32 x 32 pixels of its image 'b.png', got 40 x 32"),
        (
            np.full((32, 32), 3, dtype=np.uint8),
            "b.png: class 3 is unknown; expected 0 (road) to 2 (sky), or 255 for none",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    segment: Callable[..., Any], values: np.ndarray, said: str, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(values).save(tmp_path / "labels" / "b.png")
    assert said in segment("--labels", tmp_path / "labels", code=2).err


def test_labels_of_other_images_are_refused(segment: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((3, 3), dtype=np.uint8)).save(tmp_path / "labels" / "other.png")
    assert (
        "no file for any of 3 images, such as 'a.jpg'; known: other"
        in segment("--labels", tmp_path / "labels", code=2).err
    )


def test_an_encoder_without_patches_is_refused(place: Path, tmp_path: Path) -> None:
    model = FAMILIES["ALIGN"](tmp_path)
    with pytest.raises(UnsupportedModelError, match="its convolutions give a map of places"):
        tether.segment(place / "photos", CLASSES, model=model, templates="name")
    with pytest.raises(
        UnsupportedModelError, match=r"--with values: .*; leave --with out to use what this tower shows"
    ):
        tether.segment(place / "photos", CLASSES, model=model, using="values", templates="name")


def test_scores_that_are_no_numbers_make_no_masks(
    segment: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TokenSegmenter, "patches", lambda self, model, image: torch.full((len(image), 16, 64), torch.nan)
    )
    assert "the latest: scores of classes are not finite" in segment("--with", "tokens", code=2).err
    assert not list(tmp_path.rglob("*.png"))


def test_an_image_too_long_to_be_looked_at_is_a_bad_row(place: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((1, 30_000, 3), dtype=np.uint8)).save(tmp_path / "photos" / "long.png")
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / "photos" / "small.png")
    found = tether.segment(tmp_path / "photos", CLASSES, model=str(place / "model"), windows={"size": 1000})
    assert (list(found.keys), found.bad) == (["small.png"], 1)


def test_in_python_masks_stay_in_memory_or_are_read_again(place: Path, tmp_path: Path) -> None:
    kept = tether.segment(
        place / "photos", CLASSES, model=str(place / "model"), palette=["#010203", "#040506", "#070809"]
    )
    stored = tether.segment(
        place / "photos", CLASSES, model=str(place / "model"), palette="#010203,#040506,#070809", out=tmp_path / "new"
    )
    assert list(stored.masks) == list(kept.masks) == list(kept.keys) == ["a.jpg", "b.png", "sub/c.jpg"]
    for key in kept.keys:
        assert np.array_equal(stored.masks[key].labels, kept.masks[key].labels)
        assert stored.masks[key].palette.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert kept.masks["a.jpg"].scores.shape == (3, 4, 7)
    assert "<img" in kept._repr_html_()
    assert repr(kept).startswith("SegmentedImages(3 images by values: ")
    assert kept.remarks() == [
        "unmeasured: give --labels with the true classes of some images to see how good the masks are"
    ]


def test_a_segmenter_of_ones_own(place: Path) -> None:
    model = tether.load(place / "model")
    own = TokenSegmenter(background=["wall"], templates=["{}"])
    found = tether.segment(place / "photos", "car", model=model, using=own)
    assert found.classes == ("car", "background")
    assert found.method == "tokens"
    with pytest.raises(InputError, match="background: the segmenter that is given has its own; leave it out"):
        tether.segment(place / "photos", "car", model=model, using=own, background="wall")
    with pytest.raises(InputError, match="--boxes: they are written to the folder of masks"):
        tether.segment(place / "photos", CLASSES, model=model, boxes=True)


def test_classes_that_are_read_alike_or_were_never_seen_are_named(place: Path, call: Callable[..., Any]) -> None:
    words = count_words(open_source("digits"), digest=encoder_digest(tether.load(place / "model")), scratch=True)
    words.save(place / "model")
    where = ["--model", place / "model", "--out", place / "alike"]
    said = call("segment", place / "photos", "--classes", "car,Car,background", *where)
    (place / "model" / WORDS).unlink()
    assert "the model reads 'car' and 'Car' alike and cannot tell them apart" in said.err
    assert "car: car is in none of the" in said.err
    assert "background: " not in said.err
