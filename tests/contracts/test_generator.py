"""What every maker of images in ``GENERATORS`` promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.core.component import build
from tether.core.errors import InputError
from tether.generation import GENERATORS, TextGenerator, train_generator
from tether.models import create

pytest.importorskip("diffusers", reason="needs tether-clip[generate]")

SMALL = {
    "diffusion": {"size": 8, "channels": [8, 16], "plain": 1, "timesteps": 20},
    "scales": {"size": 16, "scales": [1, 2, 4], "vocab": 16, "channels": 4, "codec_width": 8, "width": 16, "depth": 1},
}
"""Settings under which each makes small images fast."""
SPEED = {"diffusion": {"steps": 2}, "scales": {}}
"""Arguments of ``generate`` likewise."""

generators = pytest.mark.parametrize("name", GENERATORS)


def encoder(seed: int = 0) -> torch.nn.Module:
    return create("tiny", seed=seed).eval()


def make(name: str, model: torch.nn.Module) -> TextGenerator:
    torch.manual_seed(1)
    return build({"name": name, **SMALL[name]}, GENERATORS, where="test", model=model)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(maker: TextGenerator, texts: list[str], *, seed: int = 0) -> torch.Tensor:
    return maker.generate(texts, generator=draw(seed), **SPEED[maker.name])


@generators
def test_images_of_texts_follow_the_generator_alone(name: str) -> None:
    maker = make(name, encoder()).eval()
    made = images(maker, ["a cat", "a black dog"])
    assert made.shape == (2, 3, *maker.size)
    assert made.abs().max() <= 1
    assert not made.requires_grad
    torch.manual_seed(9)
    assert torch.equal(images(maker, ["a cat", "a black dog"]), made)
    assert not torch.equal(images(maker, ["a cat", "a black dog"], seed=1), made)


@generators
def test_training_moves_the_maker_and_no_encoder(name: str) -> None:
    model = encoder()
    maker = make(name, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mine = {key: value.clone() for key, value in maker.state_dict().items()}
    shown = torch.randint(0, 256, (4, 3, *maker.size), dtype=torch.uint8, generator=draw())
    losses = train_generator(maker, shown, [["a cat", "one cat"]] * 4, steps=3, batch_size=4)
    assert len(losses) == 3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, mine[key]) for key, value in maker.state_dict().items())
    assert not maker.training
    assert len(train_generator(maker, shown, [["a dog"]] * 4, steps=1, batch_size=2)) == 1  # at rest, and on
    other = make(name, model)
    assert train_generator(other, shown, [["a cat", "one cat"]] * 4, steps=3, batch_size=4) == losses


@generators
def test_a_file_gives_the_same_images_and_is_bound_to_the_texts(name: str, tmp_path: Path) -> None:
    model = encoder()
    maker = make(name, model).eval()
    maker.save(tmp_path / "maker.safetensors")
    again = GENERATORS[name].load(tmp_path / "maker.safetensors", model=model)
    assert again.settings == maker.settings
    assert torch.equal(images(again, ["a cat"]), images(maker, ["a cat"]))
    with pytest.raises(InputError, match="text tower"):
        GENERATORS[name].load(tmp_path / "maker.safetensors", model=encoder(5))
    data = (tmp_path / "maker.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        GENERATORS[name].load(tmp_path / "cut.safetensors", model=model)


@generators
def test_bad_input_is_told(name: str) -> None:
    maker = make(name, encoder())
    for texts in ([], "a cat", [3]):
        with pytest.raises(InputError, match="texts: expected a list"):
            images(maker, texts)
    with pytest.raises(InputError, match="images: expected"):
        maker.loss(torch.zeros(1, 3, 5, 5), ["a cat"], generator=draw())
    with pytest.raises(InputError, match="images: expected"):
        maker.loss(torch.zeros(2, 3, *maker.size), ["a cat"], generator=draw())
    shown = torch.zeros(2, 3, *maker.size, dtype=torch.uint8)
    for wrong, texts in ((shown.float(), [["a"]] * 2), (shown, [["a"]])):
        with pytest.raises(InputError, match="images: expected"):
            train_generator(maker, wrong, texts, steps=1)
    with pytest.raises(InputError, match="texts, row 1"):
        train_generator(maker, shown, [["a"], []], steps=1)
