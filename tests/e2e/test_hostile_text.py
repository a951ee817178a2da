"""Captions, columns, class names and file names that a terminal, a page or a spreadsheet might obey."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tether
from tether import cli
from tether.models import create

CAPTIONS = (
    "[/b] [red]x[/red]", "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\u202egnp", "two\nlines", "=1+1", "a 😀 cat",
    "</script></style><script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}\u2028x",
    "| [a](javascript:alert(1)) <b onclick=alert(1)> `", "javascript:alert(1)",
)  # fmt: skip
PROBES = ("--probe", "retrieval", "--probe", "duplicates")
PAGES = ("g.html", "i/inspect.html", "run/report.html", "kept/datasheet.html")
LABELS = (CAPTIONS[0], *CAPTIONS[8:10])
ODD = "x[/b]\x1b[7m<img src=x onerror=alert(1)>"
UNSAFE = ("\x1b", "\x07", "\x9b", "\u202e")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    tether.save(create("tiny"), folder / "model")
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "label", ODD])
        for number, caption in enumerate(CAPTIONS):
            Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", caption, LABELS[number % 3], caption])
    return folder


@pytest.fixture
def shown(place: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]) -> Callable[..., str]:
    monkeypatch.chdir(place)

    def run(*arguments: str, code: int = 0) -> str:
        said = call(*arguments, code=code)
        assert not [sign for sign in UNSAFE if sign in said.out + said.err], ascii(said)
        return said.out if code == 0 else said.err

    return run


TRAIN = ("data=pairs.csv", "size=tiny", "steps=1", "batch_size=2", "precision=fp32", "threads=1")


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_every_verb_shows_text_from_outside_as_it_is(place: Path, shown: Callable[..., str]) -> None:
    shown("embed", "pairs.csv", "--model", "model", "--out", f"{ODD}/e.parquet", "--thumbnail", "16")
    assert "columns: key, texts" in shown("index", f"{ODD}/e.parquet", "--out", "[/b]")
    found = shown("search", "[/b]", ODD, "--top", "13", "--html", f"{ODD}/g.html")
    assert all(text in found for text in (*CAPTIONS[:1], "\\x1b]0;title\\x07", "\\x9b31m", "two\\nlines", "a 😀 cat"))
    hits = [json.loads(line) for line in shown("search", "[/b]", "cat", "--json", "--top", "13").splitlines()]
    assert {hit[ODD] for hit in hits} == set(CAPTIONS)
    shown("eval", "model", "pairs.csv", "--bootstrap", "0", "--json", f"{ODD}/n.json")
    shown("classify", "pairs.csv", "--model", "model", "--classes", f"cat,{ODD}", "--out", f"{ODD}/c.csv")
    assert "inspect.html" in shown("inspect", "model", "--pairs", "pairs.csv", *PROBES, "--out", f"{ODD}/i")
    assert "model and log: x[/b]" in shown("train", *TRAIN, "--out", f"{ODD}/run")
    shown("report", f"{ODD}/run", "--source", "pairs.csv", "--bootstrap", "0")
    (place / "entries.txt").write_text("x\n[/b]\n")
    shown("curate", "pairs.csv", "--entries", "entries.txt", "--t", "1", "--workers", "1", "--out", f"{ODD}/kept")
    shown("curate", "pairs.csv", "--entries", "entries.txt", "--t", "1", "--workers", "1", "--plan")
    for name in PAGES:
        nothing_runs((place / ODD / name).read_text(encoding="utf-8"))
    text = (place / ODD / "kept" / "datasheet.md").read_text(encoding="utf-8").partition("```yaml")[0]
    assert not re.findall(r"(?<!\\)[<\[]", text)


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def nothing_runs(text: str) -> None:
    page = Page()
    page.feed(text)
    assert "alert(1)" in text  # the words are there, to be read
    assert "49\u2028" not in text
    assert len(page.scripts) <= 2
    assert not [script for script in page.scripts if "alert(1)" in script]
    assert not [each for each in page.attributes if each[1].startswith("on")]
    links = [value for _, name, value in page.attributes if name in ("src", "href", "action", "data", "srcdoc")]
    assert all(link.startswith(("#", "data:image/", "data:,")) for link in links), links


@pytest.mark.parametrize(
    "arguments",
    [
        (f"{ODD}",),
        (f"--{ODD}",),
        ("eval", f"--{ODD}"),
        ("eval", f"model{ODD}", "pairs.csv"),
        ("embed", "pairs.csv", "--model", "model", "--out", "e.parquet", "--precision", ODD),
        ("train", *TRAIN, f"{ODD}=1"),
    ],
)
def test_messages_show_what_was_typed_escaped(shown: Callable[..., str], arguments: tuple[str, ...]) -> None:
    assert "\\x1b" in shown(*arguments, code=2)


def test_warnings_and_the_log_are_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    cli._show_warning(UserWarning(CAPTIONS[1]), UserWarning, "", 1)
    cli._quote_log()
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.LogRecord("tether", logging.WARNING, "", 1, "%s", (CAPTIONS[1],), None))
    title = CAPTIONS[1].encode("unicode_escape").decode()
    assert capsys.readouterr().err == f"tether: warning: {title}\ntether: warning: {title}\n"


def test_bars_and_tables_take_brackets_for_brackets() -> None:
    from rich.table import Table

    from tether.cli.screen import Screen, Words, bars

    screen = Screen(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with bars(Words("state"), screen=screen, transient=False) as shown:
        shown.add_task(CAPTIONS[0] + CAPTIONS[2], total=1, state=CAPTIONS[0] + CAPTIONS[3])
    table = Table(CAPTIONS[0], title=CAPTIONS[1])
    table.add_row(CAPTIONS[2] + ":smile:")
    screen.print(table)
    text = screen.file.getvalue()
    assert text.count(CAPTIONS[0]) >= 3
    assert "\\x1b[2J:smile:" in text
    assert not {CAPTIONS[1], CAPTIONS[2], CAPTIONS[3]} & {one for one in CAPTIONS if one in text}
