"""``tether generate``: a maker learnt from images with texts, stopped and gone on with, and images of texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tether.core.errors import InputError, StoppedError
from tether.models import create
from tether.models.save import save
from tether.workflows.generate import generate, learn_maker

DATA = "scenes:rows=12,size=64"
SMALL = {"size": 16, "scales": [1, 2, 4], "vocab": 16, "channels": 4, "codec_width": 8, "width": 16, "depth": 1}
SHORT = {"steps": 3, "codec_steps": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "model"
    save(create("tiny", seed=2).eval(), folder)
    return folder


def test_a_maker_is_learnt_and_makes_images(model: Path, tmp_path: Path) -> None:
    from tether.cli.generate import command

    maker = tmp_path / "maker.safetensors"
    settings = [f"{key}={value}" for key, value in SMALL.items()]
    command(maker, str(model), settings, learn=DATA, random_weights=True, device="cpu", **SHORT)
    assert maker.is_file()
    assert not (tmp_path / "maker.safetensors.learning").exists()
    texts = ["a red star", "a <b>blue</b> heart"]
    made, page = tmp_path / "made", tmp_path / "made.html"
    command(maker, str(model), texts, out=made, html=page, images=2, random_weights=True, device="cpu")
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


def test_bad_input(model: Path, tmp_path: Path) -> None:
    import typer

    from tether.cli.generate import command

    with pytest.raises(typer.BadParameter, match="at least one text"):
        command(tmp_path / "maker", str(model))
    with pytest.raises(typer.BadParameter, match="--out with a new folder"):
        command(tmp_path / "maker", str(model), ["a star"])
    with pytest.raises(typer.BadParameter, match="key=value"):
        command(tmp_path / "maker", str(model), ["a star"], learn=DATA)
    with pytest.raises(InputError, match="no such file"):
        generate(["a star"], model=str(model), maker=tmp_path / "none", random_weights=True)
    with pytest.raises(InputError, match="size: expected 2, 4, 8"):
        learn_maker(DATA, model=str(model), out=tmp_path / "m", settings={"size": 20, "scales": [1, 3]},
                    random_weights=True)  # fmt: skip
