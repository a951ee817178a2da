"""``tether generate``: a maker learnt from images with texts, stopped and gone on with, and images of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tether.core.errors import InputError, LockedError, StoppedError
from tether.core.locks import locked
from tether.models import create
from tether.models.save import save
from tether.workflows.generate import generate, learn_maker
from tether.workflows.learning_folder import learning

DATA = "scenes:rows=12,size=64"
SMALL = {"size": 16, "scales": [1, 2, 4], "vocab": 16, "channels": 4, "codec_width": 8, "width": 16, "depth": 1}
SHORT = {"steps": 3, "codec_steps": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "model"
    save(create("tiny", seed=2).eval(), folder)
    return folder


def test_a_maker_is_learnt_and_makes_images(model: Path, tmp_path: Path, call: Any) -> None:
    maker = tmp_path / "maker.safetensors"
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    short = [word for key, value in SHORT.items() for word in (f"--{key.replace('_', '-')}", value)]
    own = ("--model", model, "--random-weights", "--device", "cpu")
    call("generate", maker, *own, "--learn", DATA, *settings, *short)
    assert [path.name for path in tmp_path.iterdir()] == [maker.name]
    texts = ["a red star", "a <b>blue</b> heart"]
    made, page = tmp_path / "made", tmp_path / "made.html"
    making = ("generate", maker, *texts, *own, "--out", made, "--html", page)
    assert "does nothing with TEXTS alone" in call(*making, "--steps", 3, code=2).err
    call(*making, "--images", 2)
    assert "made is there already" in call(*making, "--existing", "replace", code=2).err
    assert sorted(one.name for one in made.iterdir()) == [*(f"{n:04d}.png" for n in range(4)), "metadata.csv"]
    assert Image.open(made / "0000.png").size == (16, 16)
    assert "<b>blue" not in page.read_text()
    with pytest.raises(InputError, match="is there already"):
        generate(texts, model=str(model), maker=maker, random_weights=True).save(made)
    assert (made / "metadata.csv").read_text().count("a red star") == 2
    with pytest.raises(InputError, match="text tower"):
        generate(texts, model=create("tiny", seed=9).eval(), maker=maker)
    with pytest.raises(InputError, match="place 1 is empty"):
        generate(["a star", " "], model=str(model), maker=maker, random_weights=True)


@pytest.mark.parametrize("after", [2, 6])
def test_learning_goes_on_where_it_was_stopped(after: int, model: Path, tmp_path: Path) -> None:
    def learnt(name: str, **settings) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        path = tmp_path / name
        learn_maker(DATA, model=str(model), out=path, settings=SMALL, random_weights=True, device="cpu", **SHORT,
                    **settings)  # fmt: skip
        return load_file(path)

    asked: list[int] = []
    with pytest.raises(StoppedError):
        learnt("stopped", should_stop=lambda: asked.append(0) or len(asked) == after)
    with pytest.raises(InputError, match="learnt with steps 3, asked for 4"):
        learn_maker(DATA, model=str(model), out=tmp_path / "stopped", settings=SMALL, random_weights=True, device="cpu",
                    **{**SHORT, "steps": 4})  # fmt: skip
    found, wanted = learnt("stopped"), learnt("whole")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_lies_where_learning_is_kept_is_not_touched(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "m.learning"
    place.mkdir()
    (place / "precious").write_text("x")
    with pytest.raises(InputError, match="holds precious and is no folder of a learning"):
        learn_maker(DATA, model=str(model), out=tmp_path / "m", settings=SMALL, random_weights=True, **SHORT)
    assert [path.name for path in place.iterdir()] == ["precious"]
    (place / "precious").unlink()
    with locked(place, purpose="another"), pytest.raises(LockedError, match="another"):
        learn_maker(DATA, model=str(model), out=tmp_path / "m", settings=SMALL, random_weights=True, **SHORT)


def test_a_folder_half_removed_is_still_of_its_learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "m.learning"

    def learn(a: int) -> None:
        with learning(tmp_path / "m", {"a": a}, purpose="test"):
            (place / "maker").mkdir(exist_ok=True)

    with monkeypatch.context() as patched:
        patched.setattr("tether.workflows.learning_folder.shutil.rmtree", lambda *_, **__: {}["killed"])
        with pytest.raises(KeyError):
            learn(1)
    assert (place / "about.json").is_file()
    with pytest.raises(InputError, match="learnt with a 1, asked for 2"):
        learn(2)
    learn(1)
    assert not list(tmp_path.iterdir())


def test_what_was_refused_before_anything_was_done_is_in_nobodys_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few"), learning(tmp_path / "m", {"a": 1}, purpose="test"):
        raise InputError("too few images")
    with learning(tmp_path / "m", {"a": 2}, purpose="test"):  # mended, and asked for again
        pass
    assert not list(tmp_path.iterdir())


def test_bad_input(model: Path, tmp_path: Path, call: Any) -> None:
    maker = ("generate", tmp_path / "maker", "--model", model)
    assert "at least one text" in call(*maker, code=2).err
    assert "--out with a new folder" in call(*maker, "a star", code=2).err
    assert "does nothing with --learn" in call(*maker, "size=16", "--learn", DATA, code=2).err
    assert "does nothing with --learn" in call(*maker, "--learn", DATA, "--images", 2, code=2).err
    wrong = call(*maker, "--random-weights", "--learn", DATA, "--set", "sides=16", code=2).err
    assert "--set (scales): " in wrong
    assert "sides" in wrong
    assert "expected key=value, got 'size'" in call(*maker, "--learn", DATA, "--set", "size", code=2).err
    with pytest.raises(InputError, match="no such file"):
        generate(["a star"], model=str(model), maker=tmp_path / "none", random_weights=True)
    for name, value in (("seed", 2**64), ("images", 10**9), ("batch_size", 0)):
        with pytest.raises(InputError, match=f"{name}: expected"):
            generate(["a star"], model=str(model), maker=tmp_path / "none", random_weights=True, **{name: value})
    with pytest.raises(InputError, match="size: expected 2, 4, 8"):
        learn_maker(DATA, model=str(model), out=tmp_path / "m", settings={"size": 20, "scales": [1, 3]},
                    random_weights=True)  # fmt: skip
