"""tether read, and tether adapt where a reader comes of it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tether
from tether.core.errors import InputError, StoppedError, WriteError
from tether.data.sets.lettering import LetteringSet
from tether.models import create
from tether.tasks.read import READERS, DualReader, ImageReader, RapidWords, SceneReader, load_reader

RECIPE = {"name": "read", "steps": 6, "batch_size": 8, "heads": 4, "longest": 8, "learning_rate": 1e-3}
SETTINGS = [f"{name}={value}" for name, value in RECIPE.items() if name != "name"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops with words, whole images with boxes of the same, a model and a reader."""
    folder = tmp_path_factory.mktemp("read")
    tether.save(create("tiny"), folder / "model")
    signs = LetteringSet(rows=24, lexicon=8)
    (folder / "crops").mkdir()
    (folder / "wholes").mkdir()
    lines, wholes, boxes = ["image,caption"], ["image,caption,boxes,phrases"], ["key,x0,y0,x1,y1"]
    for number in range(24):
        row = signs.row(number)
        sign = np.asarray(row.image)
        Image.fromarray(sign).save(folder / "crops" / f"{number}.png")
        lines.append(f"{number}.png,{row.texts[0]}")
        whole = np.full((80, 160, 3), 10 * number, np.uint8)
        whole[20:52, 16:144] = sign
        Image.fromarray(whole).save(folder / "wholes" / f"{number}.png")
        box, phrases = [16, 20, 144, 52], [row.texts[0]]
        cells = [f"{number}.png", "a sign", json.dumps([box]), json.dumps(phrases)]
        wholes.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
        boxes.append(",".join([f"{number}.png", *map(str, box)]))
    (folder / "crops" / "words.csv").write_text("\n".join(lines) + "\n")
    (folder / "wholes" / "words.csv").write_text("\n".join(wholes) + "\n")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    tether.adapt(folder / "model", folder / "crops" / "words.csv", recipe=RECIPE, out=folder / "reader")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_learns_and_reads(place: Path, tmp_path: Path, call: Callable[..., Any]) -> None:
    made, out, page = tmp_path / "reader", tmp_path / "words.csv", tmp_path / "words.html"
    crops = place / "crops" / "words.csv"
    said = call("adapt", place / "model", crops, "--recipe", "read", *SETTINGS, "--out", made).out
    assert "texts read right" in said
    assert f"next: tether read IMAGES --head {made}" in said
    assert "page:" not in said
    assert json.loads((made / "report.json").read_text())["gives"] == "reader"
    known = tmp_path / "known.txt"
    known.write_text("=stop\nexit\n")
    more = ["--html", page, "--shown", 5, "--compare", "--words", known, "--json"]
    told = call("read", crops, "--head", made, "--out", out, *more)
    found = rows_of(out)
    assert len(found) == 24
    assert {row["nearest"] for row in found} <= {"'=stop", "exit"}
    assert all(0 <= float(row["confidence"]) <= 1 for row in found)
    assert page.read_text().count("data:image/jpeg;base64,") == 5
    shares = json.loads(told.out)["scores"]
    whole = tether.read(crops, head=made, compare=True)
    assert shares["right"]["rate"] == whole.scores.right.rate
    assert [row["text"] for row in found] == list(whole.texts.words)
    assert [hit.score for hit in whole.shown] == sorted(whole.texts.confidence.tolist())
    assert "least sure first" in page.read_text()
    assert "is there already" in call("read", crops, "--head", made, "--out", out, code=2).err


def test_goes_on_where_it_stopped(place: Path, tmp_path: Path) -> None:
    def learn(out: Path, *, stop: int | None = None) -> Path:
        asked = iter(range(1, 99))
        data = place / "crops" / "words.csv"
        tether.adapt(place / "model", data, recipe=RECIPE, out=out, should_stop=lambda: next(asked) == stop)
        return out

    with pytest.raises(StoppedError):
        learn(tmp_path / "stopped", stop=3)
    again = learn(tmp_path / "stopped")
    for name in ("reader.safetensors", "model/model.safetensors"):
        assert (again / name).read_bytes() == (place / "reader" / name).read_bytes()
    assert not (again / "unfinished").exists()


def test_scenes(place: Path, tmp_path: Path, call: Callable[..., Any]) -> None:
    wholes, made = place / "wholes" / "words.csv", tmp_path / "scenes"
    settings = [f"reader={place / 'reader'}", "steps=4", "batch_size=8", "heads=4", "learning_rate=1e-2"]
    said = call("adapt", place / "model", wholes, "--recipe", "read-scene", *settings, "--out", made).out
    assert "The same without their scenes" in said
    assert "pixels of the image" in said
    given = ["read", wholes, "--regions", place / "boxes.csv", "--head", made]
    call(*given, "--scene", "--model", place / "model", "--out", tmp_path / "scene.csv")
    call(*given, "--out", tmp_path / "alone.csv")
    scene, alone = rows_of(tmp_path / "scene.csv"), rows_of(tmp_path / "alone.csv")
    assert [(row["key"], row["region"]) for row in scene] == [(row["key"], row["region"]) for row in alone]
    assert [row["confidence"] for row in scene] != [row["confidence"] for row in alone]
    model = tether.load(place / "model")
    reader = load_reader(made, model=model)
    assert isinstance(reader, SceneReader)
    assert isinstance(load_reader(made), DualReader)
    one = np.asarray(Image.open(place / "wholes" / "3.png"))
    direct = reader.read([one[20:52, 16:144]], scenes=[one])
    row = next(row for row in scene if row["key"] == "3.png")
    assert row["text"] == direct.words[0]
    assert float(row["confidence"]) == pytest.approx(direct.confidence[0], abs=1e-5)
    other = tmp_path / "other"
    tether.save(create("tiny", seed=1), other)
    assert "was fitted on" in call(*given, "--scene", "--model", other, "--out", tmp_path / "no.csv", code=2).err
    assert "expected --model" in call(*given, "--scene", "--out", tmp_path / "no.csv", code=2).err


def test_places_in_scenes(place: Path, tmp_path: Path) -> None:
    recipe = {"name": "read_scene", "reader": str(place / "reader"), "steps": 2, "heads": 4, "position": True}
    out, wholes, boxes = tmp_path / "made", place / "wholes" / "words.csv", place / "boxes.csv"
    tether.adapt(place / "model", wholes, recipe=recipe, out=out)
    found = tether.read(wholes, head=out, model=place / "model", scene=True, regions=boxes)
    assert len(found.texts) == 24
    assert set(found.regions) == {"1"}


def test_words_of_scenes_take_the_case_of_the_reader(place: Path, tmp_path: Path) -> None:
    table = (place / "wholes" / "words.csv").read_text()
    words = {row["phrases"] for row in rows_of(place / "wholes" / "words.csv")}
    for word in words:
        table = table.replace(word.replace('"', '""'), word.upper().replace('"', '""'))
    for number in range(24):
        (tmp_path / f"{number}.png").write_bytes((place / "wholes" / f"{number}.png").read_bytes())
    (tmp_path / "words.csv").write_text(table)
    recipe = {"name": "read_scene", "reader": str(place / "reader"), "steps": 1, "heads": 4}
    said = str(tether.adapt(place / "model", tmp_path / "words.csv", recipe=recipe))
    assert "NOT shown to read: held out: " in said
    assert "Scenes are NOT shown to help: 0.0%" in said
    (tmp_path / "words.csv").write_text(table.replace('[""', '[""?'))
    with pytest.raises(InputError, match="reader reads no others; train it anew with"):
        tether.adapt(place / "model", tmp_path / "words.csv", recipe=recipe)


def test_what_replaces_a_reader_with_scenes_has_none(place: Path, tmp_path: Path) -> None:
    recipe = {"name": "read_scene", "reader": str(place / "reader"), "steps": 1, "heads": 4}
    out = tmp_path / "made"
    tether.adapt(place / "model", place / "wholes" / "words.csv", recipe=recipe, out=out)
    assert (out / "scene.safetensors").is_file()
    tether.adapt(place / "model", place / "crops" / "words.csv", recipe=RECIPE, out=out, existing="replace")
    assert not (out / "scene.safetensors").exists()
    tether.adapt(place / "model", "digits", recipe="probe", shots=2, out=out, existing="replace")
    assert not (out / "reader.safetensors").exists()
    assert not (out / "model").exists()


def test_what_cannot_be_replaced_stays(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the last of the files leaves the old reader, whole, with its report."""
    out = Path(shutil.copytree(place / "reader", tmp_path / "reader"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(path: Path, **given: object) -> None:
        raise OSError(28, "No space left on device")

    learn = {"recipe": RECIPE | {"steps": 2, "learning_rate": 0.05}, "out": out, "existing": "replace"}
    with monkeypatch.context() as disk:
        disk.setattr("tether.tasks.read.reader.write_state", full)
        with pytest.raises(WriteError, match="what stood there before is unchanged"):
            tether.adapt(place / "model", place / "crops" / "words.csv", **learn)
    assert all(path.read_bytes() == held for path, held in before.items())
    tether.adapt(place / "model", place / "crops" / "words.csv", **learn)
    for name in ("reader.safetensors", "model/model.safetensors", "report.json"):
        assert (out / name).read_bytes() != before[out / name]
    assert {path for path in out.rglob("*") if path.is_file()} == set(before)


def test_a_reader_is_not_begun_where_the_next_lies(place: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(place / "reader", tmp_path / "reader"))
    recipe = {"name": "read_scene", "reader": str(out), "steps": 1, "heads": 4}
    more = {"out": out, "existing": "replace"}
    with pytest.raises(InputError, match=r"--out: .* would take the place of reader, "):
        tether.adapt(place / "model", place / "wholes" / "words.csv", recipe=recipe, **more)
    with pytest.raises(InputError, match=r"--out: .* would take the place of MODEL, "):
        tether.adapt(out / "model", place / "crops" / "words.csv", recipe=RECIPE, **more)


def test_outputs_are_files_of_their_own(place: Path, tmp_path: Path, call: Callable[..., Any]) -> None:
    crops = Path(shutil.copytree(place / "crops", tmp_path / "crops"))
    table, same, known = crops / "words.csv", tmp_path / "same.json", tmp_path / "known.txt"
    known.write_text("stop\n")
    before, given = table.read_text(), ["read", table, "--head", place / "reader", "--existing", "replace"]
    for more, told in (
        (["--out", same, "--html", same], "--html: "),
        (["--out", tmp_path / "out.csv", "--html", same, "--json", same], "--json: "),
        (["--out", crops / ".." / "crops" / "words.csv"], f"--out: {crops}/../crops/words.csv is IMAGES, too"),
        (["--out", tmp_path / "out.csv", "--html", known, "--words", known], "--html: "),
        (["--out", tmp_path / "a.csv", "--json", tmp_path / "a.bad_rows.jsonl"], "the log of bad rows"),
    ):
        assert told in call(*given, *more, code=2).err
    assert "is IMAGES, too" in call("read", f"csv:path={table}", *given[2:], "--out", table, code=2).err
    assert "is IMAGES, too" in call("read", f"{crops}/*.csv", *given[2:], "--out", table, code=2).err
    assert table.read_text() == before
    assert known.read_text() == "stop\n"
    log = tmp_path / "out.bad_rows.jsonl"
    log.write_text("a letter to my mother\n")
    assert "is no log of bad rows that Tether wrote" in call(*given, "--out", tmp_path / "out.csv", code=2).err
    assert log.read_text() == "a letter to my mother\n"
    log.write_text('{"source": "x", "key": "of a run before", "error": "y"}\n')
    call(*given, "--out", tmp_path / "out.csv")
    assert not log.exists()


def test_words_to_compare_with_are_no_bomb(place: Path, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("stop\n" + "x" * 2_000_000 + "\n")
    with pytest.raises(InputError, match=r"--words: .*known\.txt:2: expected a word of at most 1,000 characters"):
        tether.read(place / "crops", head=place / "reader", words=tmp_path / "known.txt")


def test_images_of_all_kinds(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    grey = np.linspace(0, 65535, 32 * 128).astype(np.uint16).reshape(32, 128)
    Image.fromarray(grey).save(folder / "deep.png")
    Image.fromarray((grey >> 8).astype(np.uint8)).save(folder / "flat.png")
    Image.fromarray(np.full((1, 1, 3), 200, np.uint8)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    found = tether.read(folder, head=place / "reader", bad_rows=tmp_path / "bad.jsonl")
    assert set(found.keys) == {"deep.png", "flat.png", "small.png"}
    by_key = dict(zip(found.keys, found.texts.confidence.tolist(), strict=True))
    assert by_key["deep.png"] == pytest.approx(by_key["flat.png"], rel=0.02)
    assert found.bad == 1
    assert "broken.jpg" in (tmp_path / "bad.jsonl").read_text()
    assert "<p>" in found._repr_html_()
    with pytest.raises(InputError, match=r"broken\.jpg"):
        tether.read(folder, head=place / "reader", strict=True)


def test_text_from_files_is_shown_as_it_is(place: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "images" / "<b>=1.png")
    (tmp_path / "images" / "words.csv").write_text("image,caption\n<b>=1.png,<script>\n")
    found = tether.read(tmp_path / "images" / "words.csv", head=place / "reader", compare=True)
    shown = found.page(tmp_path / "page.html").read_text()
    assert "<script>" not in shown.split("</style>")[1].split("<script", 1)[0]
    assert "<b>=1.png" not in shown
    assert "<b>" not in found._repr_html_()


def test_readers_are_told_apart(place: Path) -> None:
    assert all(isinstance(kind.unit, str) for kind in READERS.values())
    assert isinstance(load_reader(place / "reader"), ImageReader)


@pytest.mark.skipif(
    "rapidocr" not in sys.modules and __import__("importlib").util.find_spec("rapidocr") is None, reason="extra ocr"
)
def test_rapidocr(place: Path) -> None:
    found = tether.read(place / "crops" / "words.csv", using="rapidocr", compare=True, shown=0)
    assert found.scores.right.rate > 0.8
    assert found.method == "rapidocr"
    blank = np.full((32, 128, 3), 255, np.uint8)
    texts = RapidWords().read([blank, np.asarray(Image.open(place / "crops" / "0.png"))], batch_size=1)
    assert texts.words[0] == ""
    assert texts.words[1] == LetteringSet(rows=1, lexicon=8).row(0).texts[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "--head: expected the folder of a reader"),
        ({"head": "reader", "using": "rapidocr"}, "--head: goes without --with; leave out one of both"),
        ({"head": "crops", "page": True}, "PAGES --recipe read-page --out FOLDER made"),
        ({"using": "rapidocr", "regions": "boxes.csv", "page": True}, "--page: whole pages have no --regions"),
        ({"head": "crops"}, "holds no reader; expected the folder of one that tether adapt MODEL WORDS --recipe read"),
        ({"using": "dual"}, "rapidocr"),
        ({"head": "reader", "model": "model"}, "--model: a reader has a model of its own"),
        ({"head": "reader", "scene": True}, "--scene: goes with --regions"),
        ({"head": "reader", "scene": True, "regions": "boxes.csv"}, "--scene: expected --model"),
        ({"head": "reader", "scene": True, "regions": "boxes.csv", "model": "model"}, "reads crops alone"),
        ({"using": "rapidocr", "scene": True, "regions": "boxes.csv"}, "--scene: goes with --head"),
        ({"head": "reader", "compare": True, "regions": "boxes.csv"}, "by a column text; there is none"),
        ({"head": "reader", "regions": "boxes.csv", "source": "crops"}, "boxes.csv"),
        ({"head": "reader", "source": "empty"}, "empty"),
        ({"head": "reader", "words": []}, "words: expected at least one"),
    ],
)
def test_what_cannot_be_read(place: Path, given: dict[str, Any], told: str) -> None:
    (place / "empty").mkdir(exist_ok=True)
    paths = {name: place / given[name] for name in ("head", "model", "regions") if name in given}
    source = place / given.pop("source", "wholes/words.csv")
    with pytest.raises(InputError, match=told):
        tether.read(source, **{**given, **paths})


def test_words_that_cannot_be_learnt(place: Path, tmp_path: Path) -> None:
    crops, model = place / "crops" / "words.csv", place / "model"
    with pytest.raises(InputError, match=r"\d+\.png: '\w+': expected at most 2 characters, got \d; longest=N"):
        tether.adapt(model, crops, recipe=RECIPE | {"longest": 2})
    with pytest.raises(InputError, match=r"\d+\.png: '\w+': unknown characters '\w+'"):
        tether.adapt(model, crops, recipe=RECIPE | {"characters": "xyz"})
    (place / "crops" / "escape.csv").write_text("image,caption\n1.png,a\x1b[2Jb\n")
    with pytest.raises(InputError, match=r"1\.png: 'a\\x1b\[2Jb': expected letters, got '\\x1b' among them"):
        tether.adapt(model, place / "crops" / "escape.csv", recipe=RECIPE)
    with pytest.raises(InputError, match="expected each once"):
        tether.adapt(model, crops, recipe=RECIPE | {"characters": "xx"})
    with pytest.raises(InputError, match="--shots: does not go with --recipe read, which gives a reader"):
        tether.adapt(model, crops, recipe=RECIPE, shots=3)
    with pytest.raises(InputError, match="expected reader=FOLDER"):
        tether.adapt(model, crops, recipe="read_scene")
    with pytest.raises(InputError, match="holds no reader"):
        tether.adapt(model, crops, recipe={"name": "read_scene", "reader": str(tmp_path)})
    scenes = {"name": "read_scene", "reader": str(place / "reader"), "heads": 4}
    with pytest.raises(InputError, match="no column 'boxes'"):
        tether.adapt(model, crops, recipe=scenes)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "images" / "1.png")
    with pytest.raises(InputError, match="no caption"):
        tether.adapt(model, tmp_path / "images", recipe=RECIPE)
    with pytest.raises(InputError, match="heads"):
        tether.adapt(model, crops, recipe=RECIPE | {"heads": 5})


def test_capitals(place: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "1.png")
    (tmp_path / "words.csv").write_text("image,caption\n1.png,EXIT\n")
    done = tether.adapt(place / "model", tmp_path / "words.csv", recipe=RECIPE | {"case": "lower", "steps": 1}, seed=3)
    assert done.reader is not None
    assert done.reader.charset.characters == "eitx"
    assert "No word was held out" in str(done)
