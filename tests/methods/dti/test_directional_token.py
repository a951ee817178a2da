"""A new word of fixed length: what it reads as, how it learns, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.dti.invert import DirectionalToken, denoising_loss, learn_word_, token_norm_stats
from tether.models import create


def model(seed: int = 0):
    return create("tiny", seed=seed).eval()


def test_it_reads_as_its_first_word_but_for_the_length() -> None:
    encoder = model()
    ids = encoder.tokenizer(["a cup on a table."])
    own = float(encoder.text.token(encoder.tokenizer(["cup"]))[0, 1].detach().norm())
    token = DirectionalToken(encoder, "cup", word="<mug>", scale=own)
    torch.testing.assert_close(token.encode(["a <mug> on a table."]).pooled, encoder.encode_text(ids).pooled)
    torch.testing.assert_close(
        token.encode(["a cup."]).pooled, encoder.encode_text(encoder.tokenizer(["a cup."])).pooled
    )
    stats = token.vocabulary()
    for scale in ("mean", "min", "max"):
        made = DirectionalToken(encoder, "cup", scale=scale)
        lengths = made.embedding.norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, getattr(stats, scale)))


def test_a_first_word_of_several_tokens_gives_as_many_rows() -> None:
    encoder = model()
    token = DirectionalToken(encoder, "unquestionably strange", word="<odd>")
    count = len(token.words_of(["a unquestionably strange"])[0]) - 1
    assert len(token.direction) == count > 2
    assert token.tokenize(["a <odd>, <odd>"]).shape[1] == len(token.words_of(["a , "])[0]) + 2 * count + 2


def test_it_learns_directions_alone(tmp_path: Path) -> None:
    encoder = model()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    token = DirectionalToken(encoder, "cup")
    wanted = encoder.encode_text(encoder.tokenizer(["a dog"])).unit.detach()
    losses = learn_word_(token, lambda one, _: -(one.encode(["a <new>"]).unit * wanted).sum(), steps=30, lr=0.05)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(token.direction.norm(dim=1), torch.ones(1))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(value.grad is None for value in encoder.parameters())
    token.save(tmp_path / "token.safetensors")
    again = DirectionalToken.load(tmp_path / "token.safetensors", model=encoder)
    assert torch.equal(again.encode(["a <new>"]).pooled, token.encode(["a <new>"]).pooled)
    assert torch.equal(again.start, token.start)
    with pytest.raises(InputError, match="text tower"):
        DirectionalToken.load(tmp_path / "token.safetensors", model=model(3))


def test_the_denoising_loss_reaches_it() -> None:
    pytest.importorskip("diffusers", reason="needs tether-clip[generate]")
    from tether.generation import TextDiffusion

    encoder = model()
    diffusion = TextDiffusion(encoder, size=8, channels=(8, 16)).eval().requires_grad_(False)
    token = DirectionalToken(encoder, "cup")
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = token.direction.detach().clone()
    loss = denoising_loss(diffusion, images, templates=["a {}", "a red {}"], seed=3)
    first = learn_word_(token, loss, steps=4)
    assert not torch.equal(token.direction.detach(), before)
    assert all(value.grad is None for value in diffusion.unet.parameters())
    again = DirectionalToken(encoder, "cup")
    assert learn_word_(again, loss, steps=2) + learn_word_(again, loss, steps=2, first=2) == first
    assert torch.equal(again.direction, token.direction)
    for bad, said in (
        (lambda: denoising_loss(diffusion, images[:, :, :4]), "images: expected"),
        (lambda: denoising_loss(diffusion, images[:0]), "images: expected"),
        (lambda: denoising_loss(diffusion, images, templates=["a"]), "templates: expected"),
        (lambda: denoising_loss(diffusion, images, templates=[]), "templates: expected"),
    ):
        with pytest.raises(InputError, match=said):
            bad()
    made = diffusion.generate(["a <new>"], steps=2, generator=torch.Generator().manual_seed(0), read=token.encode)
    assert made.shape == (1, 3, 8, 8)


def test_bad_words_are_told() -> None:
    encoder = model()
    for init, word in (("", "<new>"), ("cup", "a b"), ("cup", "")):
        with pytest.raises(InputError, match="init_word, word"):
            DirectionalToken(encoder, init, word=word)
    with pytest.raises(InputError, match="scale: expected"):
        DirectionalToken(encoder, "cup", scale=-1.0)
    with pytest.raises(InputError, match="finite"):
        learn_word_(DirectionalToken(encoder, "cup"), lambda one, _: one.direction.sum() * torch.nan, steps=1)
    with pytest.raises(InputError, match="none"):
        token_norm_stats(torch.zeros(2, 3))
    with pytest.raises(InputError, match="table"):
        token_norm_stats(torch.zeros(3))
