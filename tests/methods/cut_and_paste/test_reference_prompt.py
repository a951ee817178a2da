"""Reference images as further tokens: how they learn, what hides them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.core.errors import InputError, StoppedError
from tether.core.types import Features
from tether.generation import TextDiffusion
from tether.methods.cut_and_paste import ReferencePrompt, VideoEditor, train_referenced
from tether.methods.cut_and_paste.reference import ReferencedStep, reference_size, with_tokens
from tether.models import create
from tether.models.towers.clip import Clip

pytest.importorskip("diffusers", reason="needs tether-clip[generate]")


def model(seed: int = 0) -> Clip:
    return create("tiny", seed=seed).eval()


def diffusion(encoder: Clip) -> TextDiffusion:
    torch.manual_seed(0)
    return TextDiffusion(encoder, size=8, channels=(8, 16), plain=0, timesteps=40)


def pixels(count: int, side: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)


def test_map_and_network_learn_together_and_a_hidden_reference_is_not_seen(tmp_path: Path) -> None:
    encoder = model()
    made = diffusion(encoder)
    prompt = ReferencePrompt(made, seed=1)
    before, network = prompt.map.weight.clone(), made.unet.conv_in.weight.clone()
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    given = (made, prompt, pixels(4, 8), [["a cat"]] * 4, pixels(4, 32))
    train_referenced(*given, steps=3, batch_size=2)
    assert not torch.equal(prompt.map.weight, before)
    assert not torch.equal(made.unet.conv_in.weight, network)
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    assert not any(one.requires_grad for one in [*made.parameters(), *prompt.parameters()])
    x, said, rows = given[2].float() / 127.5 - 1, ["a cat"] * 4, torch.arange(4)
    losses = {}
    for drop in (0.0, 0.5, 1.0):
        prompt.drop = drop
        step = ReferencedStep(prompt, *given[:1], *given[2:], batch_size=2, seed=0)
        losses[drop] = float(step.loss_on(x, said, rows=rows, generator=torch.Generator().manual_seed(1)))
    draw = torch.Generator().manual_seed(1)
    torch.rand(4, generator=draw)
    alone = float(made.loss(x, said, generator=draw, read=made.read))
    assert losses[1.0] == pytest.approx(alone, rel=1e-5)
    assert losses[0.0] != pytest.approx(alone, rel=1e-5)
    prompt.save(tmp_path / "prompt.safetensors")
    again = ReferencePrompt.load(tmp_path / "prompt.safetensors", diffusion=made)
    assert torch.equal(again.tokens(given[4]), prompt.tokens(given[4]))
    with pytest.raises(InputError, match="image side"):
        ReferencePrompt.load(tmp_path / "prompt.safetensors", diffusion=diffusion(model(3)))


def test_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def trained(folder: Path | None, steps: int) -> torch.Tensor:
        made = diffusion(model())
        prompt = ReferencePrompt(made)
        train_referenced(
            made, prompt, pixels(4, 8), [["a cat"]] * 4, pixels(4, 32), steps=3, batch_size=2, folder=folder,
            should_stop=lambda: next(asked),
        )  # fmt: skip
        return torch.cat([prompt.map.weight.flatten(), made.unet.conv_in.weight.flatten()])

    asked = iter([False] * 3)
    whole = trained(None, 3)
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        trained(tmp_path, 3)
    asked = iter([False] * 3)
    assert torch.equal(trained(tmp_path, 3), whole)


def test_an_editor_takes_images_of_any_size() -> None:
    made = diffusion(model()).eval()
    prompt = ReferencePrompt(made).requires_grad_(False)
    clip = pixels(2, 8).float() / 127.5 - 1
    editor = VideoEditor(made, prompt, steps=2, blending=False)
    plain, told, large = (
        editor.edit(clip, "a red circle", "a red star", word="circle", reference=one).frames
        for one in (None, pixels(1, 32)[0], pixels(1, 50)[0])
    )
    tokens = editor.edit(
        clip, "a red circle", "a red star", word="circle", reference=prompt.tokens(pixels(1, 32))[0]
    ).frames
    assert torch.equal(told, tokens)
    assert not torch.allclose(told, plain, atol=1e-5)
    assert not torch.allclose(told, large, atol=1e-5)
    with pytest.raises(InputError, match="reference: an image needs"):
        VideoEditor(made, steps=2).edit(clip, "a cat", "a dog", word="cat", reference=pixels(1, 32)[0])
    with pytest.raises(InputError, match="reference: expected a uint8 image"):
        editor.edit(clip, "a cat", "a dog", word="cat", reference=pixels(1, 32))


def test_bad_references_are_told() -> None:
    made = diffusion(model())
    prompt, images, alone, texts = ReferencePrompt(made), pixels(2, 8), pixels(2, 32), [["a cat"]] * 2
    for given, said in (
        ((images[:1], texts, alone), "images: expected"),
        ((images, texts, alone[:1]), "references: expected"),
        ((images, texts, images), "references: expected"),
        ((images.float(), texts, alone), "images: expected"),
        ((images[:0], [], alone[:0]), "images: expected"),
        ((images, [["a cat"], "a dog"], alone), "texts: expected a list"),
        ((images, [["a cat"], []], alone), "texts, row 1: expected at least one"),
    ):
        with pytest.raises(InputError, match=said):
            train_referenced(made, prompt, *given, steps=1)
    with pytest.raises(InputError, match="drop: expected"):
        ReferencePrompt(made, drop=1.5)
    with pytest.raises(InputError, match="reference: expected a uint8 image"):
        reference_size(alone[0].float(), size=(8, 8))
    texts_read = Features(torch.zeros(2, 4), torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    hidden = with_tokens(texts_read, torch.ones(2, 4), kept=torch.tensor([True, False]))
    assert hidden.mask is not None
    assert hidden.mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    for bad in (torch.ones(2, 5), torch.ones(3, 2, 4), torch.ones(4)):
        with pytest.raises(InputError, match="reference: expected"):
            with_tokens(texts_read, bad)
