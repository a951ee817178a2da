"""tether audit: planted errors through the command line, its page and files, decisions applied, and bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tether
from tether.models import create

CLASSES = ("red", "green", "blue")
WRONG = ("red-03.png", "blue-07.png")
NASTY = "<script>alert(1)</script>"


def write_table(path: Path, rows: list[tuple[str, ...]], head: tuple[str, ...] = ("filepath", "label")) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 images of three colours, two of them with a wrong label, and a model with random weights."""
    folder = tmp_path_factory.mktemp("audit")
    tether.save(create("tiny"), folder / "model")
    rows = []
    for number, name in enumerate(CLASSES):
        for each in range(15):
            rng = np.random.default_rng(100 * number + each)
            pixels = rng.integers(0, 60, (4, 4, 3))
            pixels[..., number] += 190
            pixels = np.kron(pixels, np.ones((10, 10, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}-{each:02d}.png")
            key = f"{name}-{each:02d}.png"
            rows.append((key, CLASSES[(number + 1) % 3] if key in WRONG else name))
    write_table(folder / "labels.csv", rows)
    write_table(folder / "nasty.csv", [(key, NASTY if label == "blue" else label) for key, label in rows])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    write_table(folder / "broken.csv", [*rows, ("broken.jpg", "red")])
    for name, changed in {"empty": "", "one": "red", "few": "yellow"}.items():
        table = [(key, "red" if name == "one" else label) for key, label in rows]
        write_table(folder / f"{name}.csv", [*table[:-1], (table[-1][0], changed)])
    return folder


@pytest.fixture
def audited(place: Path, call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(table: str, *more: object, code: int = 0) -> Any:
        return call("audit", place / table, "--model", place / "model", "--out", tmp_path / "out", *more, code=code)

    return run


def test_wrong_labels_are_found_shown_and_mended(
    audited: Callable[..., Any], place: Path, tmp_path: Path, call: Callable[..., Any]
) -> None:
    said = audited("broken.csv", "--label-studio", "--fiftyone", "--json")
    told = json.loads(said.out)
    assert told["rows"] == 45
    assert told["suspects"]["label"] >= 2
    assert "1 bad row was skipped" in said.err
    out = tmp_path / "out"
    rows = list(csv.DictReader((out / "suspects.csv").open()))
    labels = [row for row in rows if row["kind"] == "label"]
    assert {row["key"] for row in labels[:2]} == set(WRONG)
    assert all(row["reason"].startswith(f"Labelled '{row['given']}', but ") for row in labels[:2])
    scores = list(csv.DictReader((out / "labels.csv").open()))
    assert len(scores) == 45
    assert {row["key"] for row in sorted(scores, key=lambda row: -float(row["doubt"]))[:2]} == set(WRONG)
    page = (out / "audit.html").read_text()
    assert all(key in page for key in WRONG)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    tasks = json.loads((out / "label-studio" / "label.json").read_text())
    for task in tasks:
        value = {"choices": [task["data"]["key"].partition("-")[0]]}
        task["annotations"] = [
            {"result": [{"from_name": "label", "to_name": "image", "type": "choices", "value": value}]}
        ]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    mended = tether.data.open_source(f"decided:source={place / 'labels.csv'},decisions={tmp_path / 'export.json'}")
    found = {row.key: row.meta["label"] for block in mended.blocks() for row in mended.read(block)}
    assert len(found) == 45
    assert all(label == key.partition("-")[0] for key, label in found.items())
    assert len(json.loads((out / "fiftyone" / "samples.json").read_text())["samples"]) >= 2
    spec = f"decided:source={place / 'nasty.csv'},decisions={tmp_path / 'other.csv'}"
    (tmp_path / "other.csv").write_text("key,kind,decision\nnowhere.png,label,drop\n")
    assert "1 keys are no rows of" in call("eval", place / "model", spec, code=2).err


def test_decided_rows_are_trained_on_and_curated(place: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    keys = [f"red-{each:02d}.png" for each in range(12)]
    rows = [(key, f"a red thing number {each}, seen at home", "red") for each, key in enumerate(keys)]
    write_table(place / "pairs.csv", rows, ("filepath", "caption", "label"))
    given = [row[1] for row in rows]
    made = [
        (rows[3][0], "outlier", "drop", "", ""),
        (rows[4][0], "caption", "relabel", given[4], "another caption of the fourth thing"),
        (rows[5][0], "label", "relabel", "red", "scarlet"),
        (rows[6][0], "caption", "drop", given[6], ""),
    ]
    write_table(tmp_path / "decisions.csv", made, ("key", "kind", "decision", "given", "new"))
    spec = f"decided:source={place / 'pairs.csv'},decisions={tmp_path / 'decisions.csv'}"
    call("curate", spec, "--recipe", "curate", "--out", tmp_path / "curated")
    kept = tether.data.open_source(str(tmp_path / "curated"))
    found = {row.key: row for block in kept.blocks() for row in kept.read(block)}
    assert set(found) == {row[0] for row in rows} - {rows[3][0], rows[6][0]}
    assert [*found[rows[4][0]].texts, *found[rows[7][0]].texts] == [made[1][4], given[7]]
    assert [json.loads(str(found[rows[at][0]].meta["meta"])) for at in (4, 5)] == [
        {"label": "red"},
        {"label": "scarlet"},
    ]
    settings = (f"data={spec}", "size=tiny", "steps=1")
    call("train", *settings, "batch_size=10", "--out", tmp_path / "run")
    assert "pairs.csv" in (tmp_path / "run" / "config.yaml").read_text()
    assert (
        "only 10 good rows; one batch needs 11"
        in call("train", *settings, "batch_size=11", "--out", tmp_path / "other", code=2).err
    )


def test_copies_of_the_other_part_are_named(audited: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    said = audited("labels.csv", "--against", place / "labels.csv", "--look", "copy")
    assert "45 rows; suspects: 0 label, 0 caption, 45 copy, 0 outlier" in said.out
    assert "Looks the same as 'red-03.png' of" in (tmp_path / "out" / "suspects.csv").read_text()
    assert not (tmp_path / "out" / "labels.csv").exists()


def test_text_from_data_is_escaped(audited: Callable[..., Any], tmp_path: Path) -> None:
    audited("nasty.csv", "--look", "label")
    page = (tmp_path / "out" / "audit.html").read_text()
    assert NASTY not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("table", "more", "message"),
    [
        ("empty.csv", [], "row 'blue-14.png' has an empty label"),
        ("one.csv", [], "all rows have the class 'red'; expected at least two classes"),
        ("few.csv", [], "at least 2 rows of each class, got fewer of 1: 'yellow' (1)"),
        ("labels.csv", ["--label", "species"], "has no 'species'; its columns: label"),
        ("labels.csv", ["--classes", "red,green"], "row 'blue-00.png' has 'blue'; expected one of 2 classes"),
        ("labels.csv", ["--look", "colour"], "--look: expected label, caption, copy, outlier, got 'colour'"),
        ("none.csv", [], "no such file"),
        ("labels.csv", ["--against", "nowhere.csv"], "--against: nowhere.csv: no such file"),
    ],
)
def test_bad_input_is_told_and_leaves_no_page(
    audited: Callable[..., Any], tmp_path: Path, table: str, more: list[str], message: str
) -> None:
    assert message in audited(table, *more, code=2).err
    assert not (tmp_path / "out" / "audit.html").exists()
