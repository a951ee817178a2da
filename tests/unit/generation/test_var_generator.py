"""VAR-CLIP as a whole: it learns which codewords a text means, says what does not fit, and stops and goes on."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.core.state_file import read_state, write_state
from tether.generation import VarGenerator, train_generator
from tether.models import create
from tether.models.latent.style import StyleCodec
from tether.training.codec_training import train_codec

SMALL = {"size": 16, "scales": (1, 2, 4), "vocab": 16, "channels": 4, "codec_width": 8, "width": 32, "depth": 1}
COLOURS = {"a red thing": (230, 20, 20), "a blue thing": (20, 20, 230)}


def images(count: int) -> tuple[torch.Tensor, list[list[str]]]:
    """One colour each, with some noise."""
    noise = torch.randint(-15, 16, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    texts = [list(COLOURS)[number % 2] for number in range(count)]
    flat = torch.tensor([COLOURS[text] for text in texts])[:, :, None, None]
    return (flat + noise).clamp(0, 255).to(torch.uint8), [[text] for text in texts]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return create("tiny", seed=3).eval()


def test_it_paints_the_colour_that_a_text_says(model: torch.nn.Module) -> None:
    shown, texts = images(40)
    maker = VarGenerator(model, **SMALL)
    train_codec(maker.codec, shown, steps=100, batch_size=8, learning_rate=5e-3)
    codec = {name: value.clone() for name, value in maker.codec.state_dict().items()}
    train_generator(maker, shown, texts, steps=300, batch_size=8, learning_rate=5e-3)
    assert all(torch.equal(value, codec[name]) for name, value in maker.codec.state_dict().items())
    made = maker.generate([text for text in COLOURS for _ in range(8)], generator=torch.Generator().manual_seed(0))
    red, blue = made[:, 0].mean(dim=(1, 2)), made[:, 2].mean(dim=(1, 2))
    assert int((red[:8] > blue[:8]).sum()) >= 7
    assert int((blue[8:] > red[8:]).sum()) >= 7


def test_learning_that_stopped_goes_on(model: torch.nn.Module, tmp_path: Path) -> None:
    shown, texts = images(8)

    def learnt(**settings) -> VarGenerator:
        maker = VarGenerator(model, **SMALL)
        train_generator(maker, shown, texts, steps=6, batch_size=4, grad_clip=2.0, weight_decay=0.05, **settings)
        return maker

    seen: list[int] = []
    with pytest.raises(StoppedError):
        learnt(folder=tmp_path, on_step=lambda step, loss: seen.append(step), should_stop=lambda: len(seen) == 3)
    found, wanted = learnt(folder=tmp_path), learnt()
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_guidance_and_coarse_images(model: torch.nn.Module) -> None:
    maker = VarGenerator(model, **SMALL).eval()
    found = [
        maker.generate(["a cat"], generator=torch.Generator().manual_seed(0), cfg=cfg, steps=steps)
        for cfg, steps in ((0.0, None), (5.0, None), (0.0, 1))
    ]
    assert all(one.shape == (1, 3, 16, 16) for one in found)
    assert not torch.equal(found[0], found[2])
    likeliest = [
        maker.generate(["a cat"], generator=torch.Generator().manual_seed(seed), top_k=1, top_p=0.0) for seed in (0, 1)
    ]
    assert torch.equal(*likeliest)
    with pytest.raises(InputError, match="steps: expected at most 3"):
        maker.generate(["a cat"], generator=torch.Generator(), steps=4)
    with pytest.raises(InputError, match="cond: expected"):
        maker.of_rows(torch.zeros(1, 3), generator=torch.Generator())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 20, "scales": (1, 3)}, "size: expected 2, 4, 8, 16 or 32 times the last scale, 3, got 20"),
        ({"size": 16, "scales": (1, 16)}, "times the last scale, 16, got 16"),
        ({"scales": (2, 2, 4)}, "scales: expected rising"),
        ({"width": 30, "heads": 4}, "width: expected a multiple of heads=4"),
        ({"top_p": 1.5}, "top_p: expected"),
    ],
)
def test_settings_that_do_not_fit(settings: dict, said: str, model: torch.nn.Module) -> None:
    with pytest.raises(InputError, match=said):
        VarGenerator(model, **{**SMALL, **settings})


def test_a_file_allocates_nothing_that_it_merely_says_and_has_no_nan(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, path = VarGenerator(model, **SMALL), tmp_path / "maker"
    maker.save(path)
    settings, arrays = read_state(path, what="generator", format="tether-generator-1")
    made = list[str]()
    fresh = VarGenerator.__init__

    @functools.wraps(fresh)
    def noted(self: VarGenerator, *args: object, **keywords: object) -> None:
        fresh(self, *args, **keywords)
        made.append(next(self.parameters()).device.type)

    monkeypatch.setattr(VarGenerator, "__init__", noted)
    for changes, said in (({"width": 4096, "depth": 128}, "missing transformer"), ({"phi": 2000}, "phi: expected")):
        wrong = {**settings, "settings": {**settings["settings"], **changes}}
        write_state(path, format="tether-generator-1", settings=wrong, arrays=arrays)
        with pytest.raises(InputError, match=said):
            VarGenerator.load(path, model=model)
    assert made == ["meta"]
    spoilt = {**arrays, "transformer.start": arrays["transformer.start"] * np.nan}
    write_state(path, format="tether-generator-1", settings=settings, arrays=spoilt)
    with pytest.raises(NotFiniteError, match=r"maker: transformer\.start: expected finite numbers"):
        VarGenerator.load(path, model=model)


def test_a_style_codec_has_no_nan(tmp_path: Path) -> None:
    codec = StyleCodec(size=16, dim=8, width=8)
    with torch.no_grad():
        codec.start.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="start: expected finite numbers"):
        StyleCodec.load(codec.save(tmp_path / "codec"))
