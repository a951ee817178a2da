"""``tether inspect`` as a user types it."""

from __future__ import annotations

import json
import warnings

import pytest

from tether.cli import main
from tether.models import create
from tether.models.save import save

PAIRS = "scenes:split=test,rows=60"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    save(create("tiny", seed=0).eval(), folder / "run")
    return folder


def call(capsys, *arguments):
    with warnings.catch_warnings(), pytest.raises(SystemExit) as leaving:  # main replaces showwarning
        main(list(map(str, arguments)))
    output = capsys.readouterr()
    return leaving.value.code or 0, output.out, output.err


def test_a_report_is_written_and_summed_up(place, capsys):
    out = place / "report"
    code, said, _ = call(capsys, "inspect", place / "run", "--pairs", PAIRS, "--out", out)
    assert code == 0
    assert str(out / "inspect.html") in said.replace("\n", "")
    numbers = json.loads((out / "inspect.json").read_text())
    assert "towers" in numbers["alarms"]
    assert numbers["pairs"] == PAIRS
    page = (out / "inspect.html").read_text(encoding="utf-8")
    assert f"tether inspect {place / 'run'} --pairs {PAIRS}" in page


def test_check_ends_with_one_on_an_alarm(place, capsys):
    arguments = ("inspect", place / "run", "--pairs", PAIRS, "--out", place / "report", "--check")
    code, _, err = call(capsys, *arguments, "--probe", "towers")
    assert code == 1
    assert "alarms: towers" in err
    code, said, _ = call(capsys, *arguments, "--probe", "dimensions", "--probe", "duplicates")
    assert code == 0
    assert "dimensions" in said
    assert "towers" not in said


def test_it_says_what_is_wrong(place, capsys):
    for arguments, message in (
        (("inspect", place / "none", "--pairs", PAIRS), "none"),
        (("inspect", place / "run", "--pairs", "no-such-set"), "no-such-set"),
        (("inspect", place / "run", "--pairs", PAIRS, "--probe", "colour"), "known: about"),
        (("inspect", place / "run", "--pairs", PAIRS, "--label", "species"), "species"),
        (("inspect", place / "run"), "--pairs"),
    ):
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert message in err
        assert "Traceback" not in err


def test_the_default_folder_is_named_after_the_model(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    code, _, _ = call(capsys, "inspect", "run", "--pairs", PAIRS, "--probe", "about")
    assert code == 0
    assert (place / "inspect-run" / "inspect.html").is_file()
