"""``tether inspect`` as a user types it."""

from __future__ import annotations

import json

import pytest

from tether.models import create
from tether.models.save import save

PAIRS = "scenes:split=test,rows=60"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    save(create("tiny", seed=0).eval(), folder / "run")
    return folder


def test_a_report_is_written_and_summed_up(place, call):
    out = place / "report"
    said = call("inspect", place / "run", "--pairs", PAIRS, "--out", out).out
    assert str(out / "inspect.html") in said.replace("\n", "")
    numbers = json.loads((out / "inspect.json").read_text())
    assert "towers" in numbers["alarms"]
    assert numbers["pairs"] == PAIRS
    page = (out / "inspect.html").read_text(encoding="utf-8")
    assert f"tether inspect {place / 'run'} --pairs {PAIRS}" in page


def test_check_ends_with_one_on_an_alarm(place, call):
    arguments = ("inspect", place / "run", "--pairs", PAIRS, "--out", place / "report", "--check")
    assert "alarms: towers" in call(*arguments, "--probe", "towers", code=1).err
    said = call(*arguments, "--probe", "dimensions", "--probe", "duplicates").out
    assert "dimensions" in said
    assert "towers" not in said


def test_it_says_what_is_wrong(place, call):
    for arguments, message in (
        (("inspect", place / "none", "--pairs", PAIRS), "none"),
        (("inspect", place / "run", "--pairs", "no-such-set"), "no-such-set"),
        (("inspect", place / "run", "--pairs", PAIRS, "--probe", "colour"), "known: about"),
        (("inspect", place / "run", "--pairs", PAIRS, "--label", "species"), "species"),
        (("inspect", place / "run"), "--pairs"),
    ):
        assert message in call(*arguments, code=2).err


def test_the_default_folder_is_named_after_the_model(place, call, monkeypatch):
    monkeypatch.chdir(place)
    call("inspect", "run", "--pairs", PAIRS, "--probe", "about")
    assert (place / "inspect-run" / "inspect.html").is_file()
