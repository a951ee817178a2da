"""What ``tether read`` and the recipes of readers say of themselves, and images without boxes."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import tether
from tether.core.errors import InputError
from tether.core.types import Row
from tether.core.words_read import Texts
from tether.data import open_source
from tether.data.images import decode
from tether.evaluate.dense import Measured
from tether.evaluate.reading import reading_scores
from tether.tasks.read import Charset, RapidWords
from tether.tasks.retrieve.gallery import gallery
from tether.tasks.retrieve.search import Hit
from tether.workflows.read import ReadImages
from tether.workflows.reading.learn import ReaderReport, guess_of

LINES = ["The quick brown fox", "jumps over the lazy dog", "closed on Sunday"]
needs_rapidocr = pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="extra ocr")


def page() -> Image.Image:
    image = Image.new("RGB", (420, 260), "white")
    for number, line in enumerate(LINES):
        ImageDraw.Draw(image).text((20, 30 + 70 * number), line, fill="black", font=ImageFont.load_default(24))
    return image


@needs_rapidocr
def test_rapidocr_reads_whole_pages_and_finds_lines(tmp_path: Path) -> None:
    RapidWords().read([np.asarray(page())])  # leaves its engine set to crops
    found = tether.read([page(), Image.new("RGB", (90, 60))], using="rapidocr", page=True)
    assert found.texts.words == ("\n".join(LINES), "")
    assert found.remarks()[-1] == "nothing was read in 1 of 2 images"
    lines = tether.read([page()], using="rapidocr", regions="rapidocr")
    assert lines.texts.words == tuple(LINES)
    lines.save(tmp_path / "lines.csv")
    with (tmp_path / "lines.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["region"] for row in rows] == ["1", "2", "3"]
    tops = [float(row["y0"]) for row in rows]
    assert tops == sorted(tops)
    assert 15 < tops[0] < 45
    again = tether.read([page()], using="rapidocr", regions=tmp_path / "lines.csv", compare=True)
    assert again.scores is not None
    assert again.scores.right.rate == 1.0


def test_what_was_read_of_crops_alone_is_said() -> None:
    nothing = Texts(("", ""), np.zeros(2))
    crops = ReadImages(("a", "b"), (), nothing, "rapidocr")
    assert "--page --with rapidocr reads whole pages" in crops.remarks()[-1]
    boxes = ReadImages(("a", "a"), ("1", "2"), nothing, "rapidocr")
    assert boxes.remarks()[-1] == "nothing was read in 2 of 2 boxes"


class Never:
    """Must not be asked."""

    file = None
    unit = "word"

    def read(self, images: object, *, batch_size: int = 64) -> Texts:
        raise AssertionError(images, batch_size)


def test_captions_are_looked_for_before_anything_is_read(tmp_path: Path) -> None:
    page().save(tmp_path / "1.png")
    (tmp_path / "words.csv").write_text("file,text\n1.png,ROOM\n")
    with pytest.raises(InputError, match=r"no image has a caption; captions from words\.csv"):
        tether.read(tmp_path, head=Never(), compare=True)
    (tmp_path / "boxes.csv").write_text("key,x0,y0,x1,y1\n1.png,0,0,40,40\n")
    with pytest.raises(InputError, match=r"boxes\.csv: boxes say what stands in them by a column text"):
        tether.read(tmp_path, head=Never(), regions=tmp_path / "boxes.csv", compare=True)


def test_a_box_of_no_image_is_told_shortly(tmp_path: Path) -> None:
    for number in range(9):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "boxes.csv").write_text("key,x0,y0,x1,y1\nx.png,0,0,4,4\n")
    with pytest.raises(InputError, match=r"no image has this key; .*known: 0\.png, .*4\.png and 4 more$"):
        tether.read(tmp_path, head=Never(), regions=tmp_path / "boxes.csv")


def report(read: list[str], true: list[str], **more: Any) -> ReaderReport:
    known: dict[str, Any] = {
        "recipe": "read",
        "settings": {},
        "base": "m",
        "digest": "",
        "data": (),
        "moved": 1,
        "cpu_seconds": 1.0,
    }
    return ReaderReport(**known, scores=reading_scores(read, true), unseen=None, **more)


def test_a_reader_that_reads_nothing_says_so() -> None:
    words = [f"word{number}" for number in range(9)]
    bad = report(["?"] * 9, words, guess=0.0)
    assert bad.said()[0].startswith("NOT shown to read: held out: 0.0% of 9 texts read right")
    told = bad.next_steps("tether read IMAGES")
    assert "9 held-out words tell little" in told[0]
    assert "--with rapidocr" in told[1]
    assert told[-1] == "tether read IMAGES"
    good = report(words, words, guess=0.0)
    assert good.said()[0].startswith("Held out: 100.0%")
    assert good.next_steps("tether read IMAGES")[0] == "tether read IMAGES"
    assert not report(["stop"] * 9, ["stop"] * 8 + ["exit"], guess=8 / 9).reads
    assert guess_of(["stop", "stop", "exit"], ["stop", "word"]) == 0.5


def test_scenes_that_do_not_help_are_said() -> None:
    words = ["word"] * 9
    same = report(words, words, guess=0.0, crops=reading_scores(words, words), gain=Measured(0.0, (0.0, 0.0)))
    assert "Scenes are NOT shown to help: 0.0%" in "\n".join(same.said())
    assert "without --scene" in same.next_steps("use")[1]
    assert report(words, words, guess=0.0, gain=Measured(0.3, (0.1, 0.5))).helps


def test_words_take_the_case_of_a_reader() -> None:
    assert Charset("abc").cased("CaB!") == "cab!"
    assert Charset("aBc").cased("CaB") == "CaB"


def test_bars_of_scores_with_ends_are_not_stretched(tmp_path: Path) -> None:
    hits = [Hit(str(row), 0.99 + row / 1000, ("word",), None, {}) for row in range(3)]
    alike = gallery({"least sure first": hits}, tmp_path / "a.html", span=(0.0, 1.0)).read_text()
    assert "scores 0.990 to 0.992" in alike
    assert "best score" not in alike
    assert "width:15%" not in alike
    assert "best score 0.990" in gallery({"x": hits}, tmp_path / "b.html").read_text()


def test_images_at_hand_are_a_source(tmp_path: Path) -> None:
    image = Image.new("RGBA", (6, 4), (255, 0, 0, 255))
    image.save(tmp_path / "one.png")
    given = [tmp_path / "one.png", image, np.zeros((3, 5, 3), np.uint8), Row("mine", image, ("a word",))]
    source = open_source(given)
    rows = [row for block in source.blocks() for row in source.read(block)]
    assert [row.key for row in rows] == ["one.png", "1", "2", "mine"]
    assert rows[3].texts == ("a word",)
    assert all((decode(row.image) == decode(image)).all() for row in (rows[0], rows[1], rows[3]))
    assert open_source([image]).version != open_source([image.rotate(90, expand=True)]).version
    for wrong, told in (([], "empty list"), ([3], "got int"), (["no.png"], "no.png: expected the path of an image")):
        with pytest.raises(InputError, match=f"IMAGES: .*{told}"):
            open_source(wrong, where="IMAGES")
    with pytest.raises(InputError, match="'mine' comes twice"):
        open_source([given[3], given[3]])
