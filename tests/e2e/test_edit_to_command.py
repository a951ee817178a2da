"""``tether edit --to``: an auto-encoder learnt from a folder, an image changed with a mask or words, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tether
from tether.data.sets.people import PeopleSet
from tether.models import create


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, images of people, and a mask of all of the first but its head."""
    folder = tmp_path_factory.mktemp("edit_to")
    tether.save(create("tiny", image_size=16, seed=3), folder / "model")
    (folder / "people").mkdir()
    people = PeopleSet(rows=6, size=32)
    for number in range(6):
        Image.fromarray(people.row(number).image).save(folder / "people" / f"{number}.png")
    labels = np.asarray(people.row(0).meta["labels"])
    Image.fromarray(((labels != 1) * 255).astype(np.uint8)).save(folder / "head.png")
    return folder


def test_codes_are_learnt_and_an_image_changed(work: Path, tmp_path: Path, call) -> None:
    codes, image = tmp_path / "people.codes", work / "people" / "0.png"
    learning = ("edit", work / "people", "--learn", "--codes", codes, "--set", "size=16", "--set", "dim=8", "--set",
                "width=8")  # fmt: skip
    done = call(*learning, "--steps", 4, "--json", tmp_path / "learnt.json")
    assert "learnt from 5 images" in done.out
    assert json.loads((tmp_path / "learnt.json").read_text())["images"] == 5
    assert "is there already" in call(*learning, code=2).err
    to = ("edit", image, "--model", work / "model", "--to", "a person in a red dress", "--codes", codes, "--steps", 3)
    done = call(*to, "--mask", work / "head.png", "--out", tmp_path / "a.png", "--frames", tmp_path / "way")
    assert "what should stay was kept with" in done.err
    assert Image.open(tmp_path / "a.png").size == (16, 16)
    assert len(list((tmp_path / "way").iterdir())) == 4
    words = ("--change", "a dress, trousers", "--keep-words", "a head", "--rest", "a wall")
    done = call(*to, *words, "--html", tmp_path / "film.html", "--json")
    assert json.loads(done.out)["html"] == str(tmp_path / "film.html")
    assert "head_shape" in (tmp_path / "film.html").read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("--to", "a dress"), "--codes: expected an auto-encoder's file with --to"),
        (("--to", "a dress", "--codes", "MASK"), "--mask, --change: expected a mask of what may change, or words"),
        (("--to", "a dress", "--codes", "MASK", "--mask", "MASK"), "head.png"),
        (("--to", "a dress", "--codes", "MASK", "--mask", "MASK", "--rest", "a wall"), "--change: expected words"),
        (("--to", "a dress", "--style", "snow"), "expected one of them, got style and to"),
        (("--style", "snow", "--codes", "MASK"), "'--codes': does nothing with --style"),
        (("--style", "snow", "--set", "size=16"), "'--set': does nothing with --style"),
        (("--to", "a dress", "--codes", "MASK", "--source", "a photo"), "'--source': does nothing with --to"),
        (("--learn", "--codes", "new.codes"), "'--model': does nothing with --learn"),
        (("--learn", "--codes", "new.codes", "--mask", "MASK"), "does nothing with --learn"),
    ],
)
def test_what_does_not_go_together(work: Path, tmp_path: Path, call, settings: tuple[str, ...], said: str) -> None:
    given = [str(work / "head.png") if word == "MASK" else word for word in settings]
    said_ = call("edit", work / "people" / "0.png", "--model", work / "model", *given,
                 *(() if "--learn" in given else ("--out", tmp_path / "out.png")), code=2).err  # fmt: skip
    assert said in " ".join(said_.split())


def test_a_model_is_asked_for_and_codes_to_write(work: Path, tmp_path: Path, call) -> None:
    image = work / "people" / "0.png"
    assert "--model" in call("edit", image, "--style", "snow", "--out", tmp_path / "out.png", code=2).err
    assert "--codes: expected a file to write" in call("edit", work / "people", "--learn", code=2).err
    wrong = call("edit", work / "people", "--learn", "--codes", tmp_path / "c", "--set", "size", code=2).err
    assert "expected key=value, got 'size'" in wrong
    wrong = call("edit", work / "people", "--learn", "--codes", tmp_path / "c", "--set", "size=17", code=2).err
    assert "size" in wrong
