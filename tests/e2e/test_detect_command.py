"""tether detect: scores, decisions, maps and a page; going on; masks; and what is refused."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tether
from families import FAMILIES
from tether.core.errors import InputError, LockedError
from tether.core.locks import LOCK, locked
from tether.models import create
from tether.tasks.anomaly import PatchesDetector


def tile(rng: np.random.Generator, *size: int, spot: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Grey with a little noise, and where it has a white spot."""
    pixels = 120 + rng.integers(0, 8, (*size, 3))
    mask = np.zeros(size, dtype=np.uint8)
    if spot:
        y, x = rng.integers(0, np.array(size) - 14)
        mask[y : y + 12, x : x + 12] = 255
        pixels[mask > 0] = rng.integers(180, 255, 3)
    return pixels.astype(np.uint8), mask


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of several sizes, three of them with a spot, one broken; eight good ones; masks; a model."""
    folder = tmp_path_factory.mktemp("detect")
    tether.save(create("tiny", seed=1), folder / "model")
    rng = np.random.default_rng(0)
    for name in ("photos/sub", "good", "masks/sub"):
        (folder / name).mkdir(parents=True)
    sizes = [(40, 70), (32, 32), (90, 50), (64, 64), (48, 48), (33, 61)]
    for number, size in enumerate(sizes):
        pixels, mask = tile(rng, *size, spot=number % 2 == 1)
        key = f"sub/{number}" if number == 3 else str(number)
        Image.fromarray(pixels).save(folder / "photos" / f"{key}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{key}.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    for number in range(8):
        Image.fromarray(tile(rng, *sizes[(number + 1) % 6])[0]).save(folder / "good" / f"{number}.png")
    return folder


@pytest.fixture
def detect(place: Path, call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(*more: object, images: object = None, code: int = 0) -> Any:
        source = place / "photos" if images is None else images
        return call("detect", source, "--model", place / "model", "--out", tmp_path / "report", *more, code=code)

    return run


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file))


def test_scores_decisions_maps_and_a_page(detect: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    known = ["--good", place / "good", "--masks", place / "masks", "--json", told]
    said = detect(*known, "--with", "patches", "--object", "grey tile")
    out = tmp_path / "report"
    assert said.out == f"{out}: scores of 6 images by patches; look at {out / 'index.html'}\n"
    for part in (
        "at most 11.1% false alarms, from 8 good images; 3 of 6 images are above it",
        "6 images with labels, 3 of them defective, 95 % intervals over images\nimage AUROC 100.0%",
        "of 3 defective images 100% are called defective",
        "of 3 normal images 0% are called defective",
        "1 bad row was skipped",
    ):
        assert part in said.err
    found = {one.relative_to(out).as_posix() for one in out.rglob("*") if one.is_file()}
    names = ["0", "1", "2", "4", "5", "sub/3"]
    maps, heat = ({f"{kind}/{name}.{end}" for name in names} for kind, end in (("maps", "tiff"), ("heat", "png")))
    assert found == {"scores.csv", "good.json", "index.html", LOCK} | maps | heat
    head, *scores = rows(out / "scores.csv")
    assert head == ["key", "score", "decision", "peak_x", "peak_y", "map"]
    assert {row[0]: row[2] for row in scores} == {
        "0.png": "good",
        "1.png": "defect",
        "2.png": "good",
        "4.png": "good",
        "5.png": "defect",
        "sub/3.png": "defect",
    }
    assert len(json.loads((out / "good.json").read_text())["scores"]) == 8
    with Image.open(out / "maps" / "sub" / "3.tiff") as image:
        values = np.array(image)
    assert (values.dtype, values.shape) == (np.float32, (4, 4))
    assert values.max() == pytest.approx(float({row[0]: row[1] for row in scores}["sub/3.png"]), abs=1e-7)
    with Image.open(out / "heat" / "5.png") as image:
        assert (image.mode, image.size) == ("RGBA", (61, 33))
    report = json.loads(told.read_text())
    assert report["threshold"]["normals"] == 8
    assert report["report"]["aupro"]["value"] > 0.5
    text = (out / "index.html").read_text()
    assert text.index("sub/3.png: larger") < text.index("2.png: larger")
    for part in ("Defects: grey tile", "6 images, by patches", "Image AUROC", "mask: defect", 'class="alarm"'):
        assert part in text


def test_words_alone(detect: Callable[..., Any], tmp_path: Path) -> None:
    said = detect("--object", "magnetic tile")
    assert "scores of 6 images by winclip" in said.out
    assert "no decisions: give --good with images without defects, 19 or more for 5 % false alarms" in said.err
    assert "unmeasured: give --masks" in said.err
    assert [row[2] for row in rows(tmp_path / "report" / "scores.csv")[1:]] == [""] * 6


def test_what_compares_where_nothing_is_named(detect: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    """Good images are remembered patch by patch, on a transformer too; words need one."""
    assert "scores of 6 images by patches" in detect("--good", place / "good").out
    model = FAMILIES["RN50"](tmp_path)
    assert tether.detect(place / "photos", model=model, good=place / "good").method == "patches"
    with pytest.raises(InputError, match="--with: patches compares with images without defects; give --good"):
        tether.detect(place / "photos", model=model)


def test_prompts_that_were_learnt(
    detect: Callable[..., Any], call: Callable[..., Any], place: Path, tmp_path: Path
) -> None:
    """Learn on masks, then look at images with the head, with and without good ones."""
    rng = np.random.default_rng(1)
    for name in ("products", "truth"):
        (tmp_path / name).mkdir()
    for number in range(24):
        pixels, mask = tile(rng, 40, 40, spot=number % 2 == 1)
        for name, values in (("products", pixels), ("truth", mask)):
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    settings = [f"masks={tmp_path / 'truth'}", "epochs=1", "--random-weights"]
    said = call(
        "adapt", place / "model", tmp_path / "products", "--recipe", "anomaly-prompts", "--out", tmp_path / "head",
        *settings,
    )  # fmt: skip
    assert "--with anomalyclip --head" in said.out
    alone = detect("--head", tmp_path / "head", "--masks", place / "masks")
    assert "scores of 6 images by anomalyclip" in alone.out
    assert "no decisions: give --good" in alone.err
    scores = [row[1] for row in rows(tmp_path / "report" / "scores.csv")]
    assert f"{tmp_path / 'head'} by its own report: " in alone.err
    judged = detect("--head", tmp_path / "head", "--good", place / "good", "--existing", "replace")
    assert "at most 11.1% false alarms, from 8 good images" in judged.err
    assert [row[1] for row in rows(tmp_path / "report" / "scores.csv")] == scores
    assert (
        "is for --with anomalyclip, got winclip" in detect("--head", tmp_path / "head", "--with", "winclip", code=2).err
    )


def test_clap_learns_once(detect: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    texts = "positive=[a scratched {},a {} with a hole],negative=none"
    known = ["--good", place / "good", "--object", "tile", "--with", f"clap:{texts},steps=2,side=16,crop=16"]
    said = detect(*known)
    assert "scores of 6 images by clap" in said.out
    learnt = {one: one.stat().st_mtime_ns for one in (tmp_path / "report" / "learnt").iterdir()}
    assert len(learnt) == 6
    (tmp_path / "report" / "maps" / "4.tiff").unlink()
    (tmp_path / "report" / "good.json").unlink()
    before = rows(tmp_path / "report" / "scores.csv")
    assert "5 kept from before" in detect(*known).out
    assert rows(tmp_path / "report" / "scores.csv") == before
    assert learnt == {one: one.stat().st_mtime_ns for one in (tmp_path / "report" / "learnt").iterdir()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("positive=[]", "positive: expected a list of at least 1"),
        ("negative=[]", "negative: expected"),
        ("negative=nothing", "negative"),
        ("repair=perhaps", "repair"),
    ],
)
def test_clap_refuses(detect: Callable[..., Any], settings: str, message: str) -> None:
    assert message in detect("--with", f"clap:{settings}", code=2).err


def test_a_second_run_keeps_what_is_there(
    detect: Callable[..., Any], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ["--good", place / "good", "--with", "patches", "--masks", place / "masks"]
    first = detect(*known)
    before = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "report" / "maps").rglob("*.tiff")}
    scores = (tmp_path / "report" / "scores.csv").read_text()
    (tmp_path / "report" / "maps" / "4.tiff").unlink()
    looked: list[int] = []
    look = PatchesDetector.look

    def counted(self: PatchesDetector, images: Any) -> Any:
        looked.append(len(images))
        return look(self, images)

    monkeypatch.setattr(PatchesDetector, "look", counted)
    again = detect(*known)
    assert again.out.endswith(f"by patches, 5 kept from before; look at {tmp_path / 'report' / 'index.html'}\n")
    assert again.err == first.err
    assert sum(looked) == 8 + 1  # the good ones, for one that is missing
    after = {one.name: one.stat().st_mtime_ns for one in (tmp_path / "report" / "maps").rglob("*.tiff")}
    assert {name for name in after if after[name] != before[name]} == {"4.tiff"}
    assert (tmp_path / "report" / "scores.csv").read_text() == scores
    looked.clear()
    assert "at most 50.0% false alarms" in detect(*known, "--false-alarms", 0.5).err
    assert sum(looked) == 0  # another rate needs no second look


def test_other_settings_are_refused_or_replace_the_maps(detect: Callable[..., Any], place: Path) -> None:
    known = ["--good", place / "good", "--with"]
    detect(*known, "patches")
    said = detect(*known, "patches:around=1", code=2)
    assert "0.tiff: was made with other settings, good images, model or image; give another folder" in said.err
    detect(*known, "patches:around=1", "--existing", "replace")
    assert "6 kept from before" in detect(*known, "patches:around=1").out


def test_nothing_else_is_written_over(detect: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    said = detect("--out", place / "photos" / "report", code=2)
    assert f"--out: {place / 'photos' / 'report'} is in the folder of the images; give another" in said.err
    for name, what in (("maps/0.tiff", "map"), ("heat/0.png", "heat map")):
        path = tmp_path / "report" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(path)
        assert f"is there already and is no {what} of Tether's" in detect("--existing", "replace", code=2).err
        path.unlink()
        assert not list(tmp_path.rglob("scores.csv"))


def test_what_is_refused_leaves_the_log_of_bad_rows(detect: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    known = ["--good", place / "good", "--with"]
    log, held = tmp_path / "report.bad_rows.jsonl", tmp_path / "report" / "good.json"
    detect(*known, "patches")
    before = [log.read_text(), held.read_text()]
    assert "broken.jpg" in before[0]
    detect(*known, "patches:around=1", code=2)
    with locked(tmp_path / "report", purpose="a test"):
        assert "a test" in detect(*known, "patches", code=2).err
    assert [log.read_text(), held.read_text()] == before
    said = detect("--good", place / "good", "--out", place / "good" / "report", code=2)
    assert "report is in the folder of the good images; give another" in said.err
    log.write_text("mine")
    assert "is no log of bad rows that Tether wrote" in detect(*known, "patches", code=2).err
    assert log.read_text() == "mine"


def test_two_at_once_and_a_pipe_among_the_maps(place: Path, tmp_path: Path) -> None:
    asked = {"model": place / "model", "good": place / "good", "using": "patches", "out": tmp_path / "report"}
    with locked(tmp_path / "report", purpose="a test"), pytest.raises(LockedError, match="a test"):
        tether.detect(place / "photos", **asked)
    (tmp_path / "report" / "maps").mkdir(parents=True)
    os.mkfifo(tmp_path / "report" / "maps" / "0.tiff")
    with pytest.raises(InputError, match=r"0\.tiff: is there already and is no map of Tether's"):
        tether.detect(place / "photos", **asked)


def test_good_images_of_every_kind(place: Path, tmp_path: Path) -> None:
    model = tether.load(place / "model", random_weights=True)
    deep = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    (tmp_path / "deep").mkdir()
    for number in range(3):
        Image.fromarray(np.roll(deep, number)).save(tmp_path / "deep" / f"{number}.png")
    (tmp_path / "deep" / "broken.png").write_bytes(b"no image")
    log, told = tmp_path / "bad.jsonl", list[tuple[str, int, int | None]]()
    log.write_text('{"source": "x", "key": "of a run before", "error": "y"}\n')
    found = tether.detect(  # 16-bit grey
        tmp_path / "deep",
        model=model,
        good=tmp_path / "deep",
        using="patches",
        bad_rows=log,
        on_stage=lambda *stage: told.append(stage),
    )
    assert found.scores.max() < 1e-6
    assert (found.bad, found.good.bad) == (1, 1)
    assert [json.loads(line)["key"] for line in log.read_text().splitlines()] == ["broken.png"] * 2
    assert told == [("good", 3, 3)]
    (tmp_path / "same").mkdir()
    for number in range(4):
        Image.fromarray(np.full((40, 40, 3), 90, dtype=np.uint8)).save(tmp_path / "same" / f"{number}.png")
    same = tether.detect(tmp_path / "same", model=model, good=tmp_path / "same", out=tmp_path / "out")
    assert same.scores.max() - same.scores.min() < 1e-6
    assert same.decisions() == ["good"] * 4
    one = tether.detect(place / "photos", model=model, good=place / "photos" / "sub", using="patches")
    assert one.remarks()[0] == "no decisions: 1 good image gives no threshold; give --good with 2 or more"
    few = tether.detect(place / "photos", model=model, good=place / "good", using="patches", most_good=3)
    assert "of the good images the first 3 were taken" in few.remarks()
    assert few.good.threshold.rate == 0.25


def test_a_folder_of_normals_and_images_without_masks(place: Path, tmp_path: Path) -> None:
    model = tether.load(place / "model", random_weights=True)
    (tmp_path / "masks").mkdir()
    for name in ("0", "2"):
        Image.open(place / "masks" / f"{name}.png").save(tmp_path / "masks" / f"{name}.png")
    found = tether.detect(place / "photos", model=model, masks=tmp_path / "masks")
    assert found.report.image_auroc is None
    assert "2 images with labels, 0 of them defective, 95 % intervals over images; 4 images have no mask" in (
        found.remarks()
    )
    assert found.remarks()[-1] == "no mask shows a defect: there are no figures of pixels"
    assert "data:image/jpeg" in found._repr_html_()
    assert repr(found).startswith("DetectedDefects(6 images of object by winclip: ")


def test_a_detector_that_was_taken_out_is_not_chosen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tether.workflows.detectors.DETECTORS", {"patches": PatchesDetector})
    with pytest.raises(InputError, match="patches compares with images without defects; give --good"):
        tether.detect(place / "photos", model=create("tiny").eval())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--with", "patches"], "--with: patches compares with images without defects; give --good"),
        (["--false-alarms", "0.1"], "--false-alarms: is promised by images without defects; give --good"),
        (["--good", "GOOD", "--false-alarms", "0.05"], "8 good images cannot promise 0.05; give 19 or more"),
        (["--good", "GOOD", "--false-alarms", "2"], "--false-alarms: expected a number in (0, 1), got 2.0"),
        (["--good", "nowhere"], "--good: 'nowhere': no such file or folder"),
        (["--with", "patch"], "--with: unknown part 'patch'; did you mean 'patches'?"),
        (["--with", "winclip:scales=[5]"], "windows: expected a grid of 5 x 5 patches at least, got 4 x 4"),
        (["--object", " "], "object: expected the name of what the images show"),
        (["--masks", "nowhere"], "--masks: nowhere: no such folder"),
        (["--masks", "GOOD"], "0.png: expected the 70 x 40 pixels of its image '0.png', got 32 x 32"),
    ],
)
def test_bad_options_are_refused(
    detect: Callable[..., Any], more: list[str], said: str, place: Path, tmp_path: Path
) -> None:
    told = detect(*(place / "good" if one == "GOOD" else one for one in more), code=2)
    assert said in told.err
    assert not list(tmp_path.rglob("scores.csv"))


def test_what_is_wrong_is_told_before_a_model_is_opened(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "products" / "good").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    asked = {"model": tmp_path / "no-model"}
    for more, told in (
        ({"good": tmp_path / "empty"}, "--good: .*empty"),
        ({"masks": tmp_path / "empty"}, "--masks: .*holds no PNG"),
        ({"using": "patchcore"}, "--with: unknown part 'patchcore'"),
        ({"using": {"name": "patches", "around": 9}}, "around"),
        ({"out": tmp_path / "file"}, r"--out: .*file is a file; expected a folder$"),
        ({"out": tmp_path / "products"}, "--out: .*products holds other things, such as 'good'"),
    ):
        with pytest.raises(InputError, match=told):
            tether.detect(place / "photos", **asked, **more)


def test_no_better_than_chance_and_good_images_among_the_images(place: Path, tmp_path: Path) -> None:
    model = tether.load(place / "model", random_weights=True)
    known = {"model": model, "masks": place / "masks", "out": tmp_path / "report"}
    found = tether.detect(place / "photos", good=place / "photos", using="patches", **known)
    told = found.remarks()
    assert "6 of 6 images are good images, too: their scores are too low" in "\n".join(told)
    assert "3 good images have a defect by --masks; leave them out of --good" in told
    assert any(line.startswith("image AUROC") and line.endswith("; chance is 50.0%") for line in told)
    assert any(line.endswith("chance is 50.0%, the share of defective images") for line in told)
    assert any(line.startswith("NOT shown to be better than chance: image AUROC") for line in told)
    assert "NOT shown to call defective images defective more often than normal ones" in told
    assert "chance 50.0" in (tmp_path / "report" / "index.html").read_text()
    assert (found.bad, found.good.bad, found.skipped) == (1, 1, 1)
    words = tether.detect(place / "photos", model=model, masks=place / "masks")
    assert "try --good with images without defects, and --with patches" in "\n".join(words.remarks())


def test_images_in_memory(place: Path) -> None:
    model = tether.load(place / "model", random_weights=True)
    good = [Image.open(one) for one in sorted((place / "good").iterdir())]
    photos = [Image.open(place / "photos" / name) for name in ("0.png", "1.png")]
    found = tether.detect(photos, model=model, good=good, using="patches")
    assert list(found.keys) == ["0", "1"]
    assert found.decisions() == ["good", "defect"]
    detector = PatchesDetector().prepare(model, "tile")
    detector.remember(detector.look(good))
    assert [one.score for one in detector.predict(photos)] == pytest.approx(found.scores.tolist(), abs=1e-6)
    with pytest.raises(InputError, match=r"image 0: expected bytes, a path, a Pillow image or uint8 pixels, got int"):
        detector.look([3])


def test_files_that_a_shell_made_of_a_pattern(call: Callable[..., Any], place: Path) -> None:
    files = sorted((place / "good").glob("*.png"))
    said = call("detect", *files, "--model", "m", "--out", "o", code=2).err
    assert "quote it, as" in " ".join(said.replace("│", " ").split())


def test_an_empty_support_and_unreadable_images(place: Path, tmp_path: Path) -> None:
    model = tether.load(place / "model", random_weights=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"--good: .*not an image"):
        tether.detect(place / "photos", model=model, good=tmp_path / "broken")
    with pytest.raises(InputError, match="not an image"):
        tether.detect(tmp_path / "broken", model=model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        tether.detect(place / "photos", model=model, good=tmp_path / "empty")
