"""Decisions of a review: their file, and a source with them applied."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.curate.pools.opening import open_pool
from tether.data.decisions import Decision, read_decisions, write_decisions

HOSTILE = ['a,"b".png', "=cmd.png", "'quoted.png", "a\r=cmd.png", "b\r\n=cmd.png", "\r"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Five images, the first with two captions."""
    rows = [("0.png", "one", "cat"), ("0.png", "two", "cat")]
    rows += [(f"{number}.png", f"caption {number}", "dog") for number in range(1, 5)]
    for number in range(5):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filepath", "caption", "label"), *rows])
    return tmp_path / "pairs.csv"


def decided(table: Path, *decisions: Decision) -> dict[str, tuple[tuple[str, ...], object]]:
    file = table.parent / "decisions.csv"
    write_decisions(file, decisions)
    source = open_source(f"decided:source={table},decisions={file}")
    found = {row.key: (row.texts, row.meta["label"]) for block in source.blocks() for row in source.read(block)}
    assert len(found) == len(source) == sum(block.rows for block in source.blocks())
    return found


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made = [Decision(key, "label", "relabel", "=1+1", 'new, "name"') for key in HOSTILE]
    made.append(Decision("x", "caption", "drop", "a caption"))
    write_decisions(tmp_path / "d.csv", made)
    assert read_decisions(tmp_path / "d.csv") == tuple(made)


def test_rows_go_and_change(table: Path) -> None:
    found = decided(
        table,
        Decision("1.png", "label", "relabel", "dog", "cat"),
        Decision("2.png", "outlier", "drop"),
        Decision("0.png", "caption", "drop", "one"),
        Decision("3.png", "caption", "relabel", "caption 3", "better"),
        Decision("4.png", "label", "keep", "dog"),
    )
    assert found == {
        "0.png": (("two",), "cat"),
        "1.png": (("caption 1",), "cat"),
        "3.png": (("better",), "dog"),
        "4.png": (("caption 4",), "dog"),
    }


def test_a_row_goes_with_its_last_caption_and_a_drop_wins(table: Path) -> None:
    found = decided(
        table,
        Decision("1.png", "caption", "drop", "caption 1"),
        Decision("2.png", "label", "relabel", "dog", "cat"),
        Decision("2.png", "copy", "drop"),
    )
    assert sorted(found) == ["0.png", "3.png", "4.png"]


def test_curation_reads_it_too(table: Path) -> None:
    file = table.parent / "d.csv"
    write_decisions(file, [Decision("1.png", "label", "drop")])
    pool = open_pool(f"decided:source={table},decisions={file}")
    assert pool.pieces() >= 1


def test_versions_differ_with_the_decisions(table: Path) -> None:
    versions = set()
    for key in ("1.png", "2.png"):
        file = table.parent / "d.csv"
        write_decisions(file, [Decision(key, "label", "relabel", "dog", "cat")])
        versions.add(open_source(f"decided:source={table},decisions={file}").version)
    assert len(versions) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,kind\nx,label\n", "no column 'decision'; expected key, kind, decision, given, new"),
        ("", "no column 'key'"),
        ("key,kind,decision\n1.png,label,burn\n", "line 2: decision: expected keep, relabel, drop, got 'burn'"),
        ("key,kind,decision\n1.png,colour,keep\n", "line 2: kind: expected label, caption, copy, outlier"),
        ("key,kind,decision\n,label,keep\n", "line 2: key: expected the key of a row"),
        ("key,kind,decision,new\n1.png,label,relabel,\n", "line 2: new: relabel needs one line of text"),
        ("key,kind,decision,new\n1.png,copy,relabel,cat\n", "copy can be kept or dropped, not relabelled"),
        ("key,kind,decision\n1.png,label\n", "line 2: expected 3 cells, got 2"),
        (
            "key,kind,decision\n1.png,label,keep\n1.png,label,drop\n",
            "two decisions about its label: keep '' and drop ''",
        ),
        ("key,kind,decision\nnone.png,label,keep\nno.png,label,drop\n", "2 keys are no rows of .*'none.png', 'no.png'"),
        ("key,kind,decision,given\n1.png,caption,drop,other\n", "key '1.png': it has no caption 'other'"),
        ("key,kind,decision\n" + "".join(f"{n}.png,label,drop\n" for n in range(5)), "drops every row"),
    ],
)
def test_decisions_that_cannot_be_applied(table: Path, text: str, message: str) -> None:
    file = table.parent / "d.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(f"decided:source={table},decisions={file}")


def test_another_kind_of_file(table: Path) -> None:
    with pytest.raises(InputError, match=r"expected decisions as .csv, or a Label Studio export as .json"):
        read_decisions(table.parent / "0.png")
