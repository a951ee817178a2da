"""Parts of a source by image, and what a source holds."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tether
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.sources.advice import caption_advice
from tether.data.sources.split import SplitSource
from tether.data.survey import survey


def photos(folder: Path, count: int, *, copies: int = 0) -> Path:
    """Different images with two captions each, and copies of the first under other names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        name = f"{number:03d}.png"
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(folder / name)
        lines += [(name, f"photo {number}"), (name, f"the photo with number {number}")]
    for number in range(copies):
        (folder / f"copy{number}.png").write_bytes((folder / "000.png").read_bytes())
        lines.append((f"copy{number}.png", "photo 0"))
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *lines])
    return folder


def keys(source) -> set[str]:
    return {row.key for block in source.blocks() for row in source.read(block)}


def test_parts_share_no_image_whatever_its_name(tmp_path):
    source = str(photos(tmp_path / "photos", 40, copies=5))
    parts = [SplitSource(source=source, part=part, share=0.25, seed=3) for part in ("train", "held_out")]
    train, held = map(keys, parts)
    assert not train & held
    assert len(train | held) == 45
    assert [part.images for part in parts] == [30, 10]
    same = {"000.png", *(f"copy{number}.png" for number in range(5))}
    assert same <= train or same <= held
    assert parts[0].version != parts[1].version


def test_more_images_move_few_others(tmp_path):
    before = keys(SplitSource(source=str(photos(tmp_path / "a", 40)), part="held_out", share=0.2))
    after = keys(SplitSource(source=str(photos(tmp_path / "b", 50)), part="held_out", share=0.2))
    assert len(before & after) >= 6


def test_one_image_cannot_be_split(tmp_path):
    with pytest.raises(InputError, match="1 different images"):
        SplitSource(source=str(photos(tmp_path / "photos", 1, copies=3)), part="train")


def test_rows_that_cannot_be_read_are_left_to_the_training_part(tmp_path):
    folder = photos(tmp_path / "photos", 5)
    with (folder / "captions.csv").open("a") as file:
        file.write("gone.png,a photo that is gone\n")
    train = SplitSource(source=str(folder), part="train", share=0.2)
    assert sum(bool(row.bad) for block in train.blocks() for row in train.read(block)) == 1


def test_a_part_of_a_part_is_named_once(tmp_path):
    folder = photos(tmp_path / "photos", 20)
    train = SplitSource(source=str(folder), part="train")
    held = SplitSource(source=train, part="held_out", seed=1)
    assert (train.name, held.name) == (f"{folder} (training part)", f"{folder} (training part, its held-out part)")
    assert caption_advice(held.name) == caption_advice(str(folder))


def test_survey_counts_and_names(tmp_path):
    folder = photos(tmp_path / "photos", 6, copies=1)
    Image.new("RGB", (8, 8)).save(folder / "silent.png")
    found = survey(open_source(str(folder)))
    assert (found.images, found.distinct, found.copies, found.pairs) == (7, 6, 1, 13)
    assert found.per_image == (1, 2, 2)
    assert found.no_caption.count == 1
    text = "\n".join(found.lines())
    assert "6 different images, 13 captions" in text
    assert "silent.png: no caption" in text
    assert "30 x 20" in text


def test_survey_of_one_caption_for_all(tmp_path):
    folder = photos(tmp_path / "photos", 6)
    lines = "".join(f"{number:03d}.png,a photo\n" for number in range(6))
    (folder / "captions.csv").write_text(f"image,caption\n{lines}")
    assert "6 of 6 captions are the same: 'a photo'" in "\n".join(survey(open_source(str(folder))).lines())


def test_survey_without_a_pair(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    (folder / "captions.csv").unlink()
    with pytest.raises(InputError, match=r"no image with a caption among 2 rows; the first: 000.png: no caption"):
        survey(open_source(str(folder)))


@pytest.mark.parametrize(
    ("name", "text", "spec"),
    [
        ("list.csv", "Ort;Datei;Wort\nhier;{0};ein roter Hund\n", "csv:path={1}/list.csv,image=Datei,caption=Wort"),
        ("Liste.TSV", "Bild\tLegende\n{0}\tein Hund\n", "csv:path={1}/Liste.TSV,image=Bild,caption=Legende"),
        ("captions.csv", "file,Wort\n{0},ein Hund\n", "csv:path={1}/captions.csv,image=file,caption=Wort"),
        ("sub/x.png", "", "images:path={1},template=a photo of a {{label}}"),
    ],
)
def test_where_captions_may_be_is_said_in_words_that_work(tmp_path, name, text, spec):
    folder, spec = photos(tmp_path / "photos", 2), spec.format("000.png", tmp_path / "photos")
    (folder / "captions.csv").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text.format("000.png"))
    if name.endswith("png"):
        (folder / name).write_bytes((folder / "000.png").read_bytes())
    source = open_source(str(folder))
    with pytest.raises(InputError) as caught:
        survey(source)
    account = BadRows(source.name)
    account.add("000.png", "no caption")
    for said in (str(caught.value), account.nothing_good()):
        assert shlex.split(said[said.index("; captions from") :].partition(": ")[2]) == [spec]
    assert survey(open_source(spec)).images == 1


def test_a_table_with_other_columns_says_which_and_how(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    table = folder / "pairs.csv"
    table.write_text("file,story\n000.png,a red dog\n001.png,a cat\n")
    spec = f"csv:path={table},image=file,caption=story"
    said = f"; its columns: file, story; captions, with data.caption=story after tether train, or as {spec}"
    with pytest.raises(InputError, match=f"{re.escape(said)}$"):
        survey(open_source(str(table)))
    assert caption_advice(f"{table} (training part)") == said
    with pytest.raises(InputError, match=f"nothing to measure{re.escape(said)}$"):
        tether.eval(tether.load("tiny", random_weights=True), table)
    assert survey(open_source(spec)).images == 2
    table.write_text("file,,\n000.png,a,b\n")
    assert caption_advice(str(table)).startswith("; its columns: file, ")


def test_nothing_is_said_of_captions_that_are_nowhere(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    (folder / "captions.csv").write_text("image,caption\n000.png,\n")
    (folder / "list.csv").write_bytes(b"\xff\x00\n")
    for name in (str(folder), str(folder / "000.png"), "https://example.org/a", "emoji (held-out part)", "\0"):
        assert caption_advice(name) == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "image,caption\n000.png,one\n001.png,two\n"),
        ("captions.csv", "\ufeffImage;Caption\n000.png;one\n001.png;two\n"),
        ("Captions.CSV", "FILE_NAME,TEXT\n000.png,one\n001.png,two\n"),
        ("captions.tsv", "path\ttext\nsub/000.png\tone\n./001.png\ttwo\n"),
        ("captions.txt", "000.png#0\tone\n001.png#0\ttwo\n"),
        ("captions.txt", "image_name| comment\n000.png| one\n001.png| two\n"),
        ("captions.txt", "000.png,one\n001.png,two\n"),
        ("metadata.jsonl", '{"file_name": "000.png", "text": "one"}\n{"file_name": "001.png", "text": "two"}\n'),
    ],
)
def test_captions_as_people_keep_them(tmp_path, name, text):
    folder = photos(tmp_path / "photos", 2)
    (folder / "captions.csv").unlink()
    (folder / name).write_text(text)
    source = open_source(str(folder))
    rows = [row for block in source.blocks() for row in source.read(block)]
    found = {row.key: [text.strip() for text in row.texts] for row in rows}
    assert found == {"000.png": ["one"], "001.png": ["two"]}


def test_a_name_that_two_images_have_is_none(tmp_path):
    folder = photos(tmp_path / "photos", 1)
    for sub in ("a", "b"):
        (folder / sub).mkdir()
        (folder / sub / "x.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "captions.csv").write_text("image,caption\nx.png,one\n000.png,two\n")
    source = open_source(str(folder))
    bad = [row.bad for block in source.blocks() for row in source.read(block) if row.bad]
    assert len(bad) == 1
    assert "names 'x.png', which is not there" in bad[0]


def test_a_line_about_a_file_that_is_not_there_is_no_image_without_a_caption(tmp_path):
    folder = photos(tmp_path / "photos", 3)
    with (folder / "captions.csv").open("a") as file:
        file.write("gone.png,a photo that is gone\n")
    found = survey(open_source(str(folder)))
    assert (found.no_caption.count, found.unusable.count) == (0, 1)
    assert "names 'gone.png', which is not there" in "\n".join(found.lines())


def test_a_longer_set_of_the_same_name_is_not_split_by_the_shorter_ones_images():
    for rows in (16, 32):
        parts = [SplitSource(source=f"scenes:rows={rows}", part=part) for part in ("train", "held_out")]
        assert sum(block.rows for part in parts for block in part.blocks()) == rows
        assert sum(len(list(part.read(block))) for part in parts for block in part.blocks()) == rows
