"""``tether eval MODEL... --suite FOLDER`` as a user types it."""

import json

import pytest

import tiny_suites
from tether.models import create
from tether.models.save import save


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    tiny_suites.classification(folder / "sets" / "colours", rows=12)
    tiny_suites.winoground(folder / "sets" / "wino", rows=4)
    for name in ("one", "two"):
        (folder / name).mkdir()
        save(create("tiny", seed=len(name) + ord(name[0])).eval(), folder / name)
    return folder


def test_eval_measures_models_on_a_suite(place, call, tmp_path):
    arguments = ("eval", place / "one", place / "two", "--suite", place / "sets", "--bootstrap", 50)
    said = call(*arguments, "--out", tmp_path / "out", "--json", tmp_path / "out.json")
    assert "mean_per_class_recall" in said.out
    assert "of 2 differences hold" in said.out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == json.loads((tmp_path / "out" / "suite.json").read_text())
    assert result["sets"] == ["colours", "wino"]
    assert len(result["numbers"]) == 4
    assert (tmp_path / "out" / "suite.html").read_text().count("<section") == 2  # two numbers make no radar
    call(*arguments, "--out", tmp_path / "out")  # goes on from there
    assert json.loads(call(*arguments, "--json").out)["models"] == result["models"]


def test_eval_of_a_suite_says_what_is_wrong(place, call, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "suite.html").write_text("mine")
    one = place / "one"
    for arguments, message in (
        ((one, "--suite", place / "none"), "none: no such folder"),
        ((one, "--suite", place / "one"), "no test set in it"),
        ((one, "--suite", place / "sets", "--measure", "geometry"), "zero_shot"),
        ((one, "--suite", place / "sets", "--limit", 5), "--limit is for a SOURCE"),
        ((one, "--suite", place / "sets", "--out", tmp_path / "out"), "suite.html is there already"),
        ((one, one, "--suite", place / "sets"), "given twice"),
        ((one, "a", "b"), "unexpected extra argument"),
        ((one, "a", "--out", tmp_path), "--out is for --suite"),
    ):
        assert message in call("eval", *arguments, code=2).err, arguments
