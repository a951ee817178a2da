"""Style codes: shapes, training, and that a code moves the whole image but each layer in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tether.core.errors import InputError
from tether.core.state_file import write_state
from tether.models.latent.codec import ConvCodec
from tether.models.latent.codecs import save_codec
from tether.models.latent.style import FORMAT, StyleCodec
from tether.training.codec_training import train_codec

PIXELS = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "codes"), [(16, 3), (32, 4), (64, 5)])
def test_images_become_codes_and_codes_images(size: int, codes: int) -> None:
    codec = StyleCodec(size=size, dim=8, width=8)
    x = torch.rand(2, 3, size, size) * 2 - 1
    w = codec.encode(x).requires_grad_()
    assert w.shape == (2, codes, 8)
    made = codec.decode(w)
    assert made.shape == x.shape
    (gradient,) = torch.autograd.grad(made.square().sum(), w)
    assert bool((gradient.abs().amax(dim=(0, 2)) > 0).all())  # of every layer


def test_it_learns_to_make_images_again() -> None:
    smooth = torch.nn.functional.interpolate(PIXELS[..., :2, :2].float(), size=16, mode="bilinear").to(torch.uint8)
    codec = StyleCodec(size=16, dim=16, width=16)
    losses = train_codec(codec, smooth, steps=80, batch_size=6, learning_rate=5e-3)
    assert losses[-1] < 0.6 * losses[0]
    again = StyleCodec(**codec.settings)
    again.load_state_dict(codec.state_dict())
    assert torch.equal(again.encode(smooth), codec.encode(smooth))


def test_codes_of_an_image_have_much_in_common_where_that_is_asked_for() -> None:
    found = []
    for spread in (0.0, 1.0):
        codec = StyleCodec(size=16, dim=8, width=8, spread=spread, divergence=1e-3)
        train_codec(codec, PIXELS, steps=40, batch_size=6, learning_rate=5e-3)
        w = codec.encode(PIXELS)
        found.append(float((w[:, 1:] - w[:, :1]).square().mean() / w.square().mean()))
    assert found[1] < 0.3 * found[0]


def test_a_file_gives_it_back_and_others_are_refused(tmp_path: Path) -> None:
    codec = StyleCodec(size=16, dim=8, width=8, spread=0.5)
    again = StyleCodec.load(codec.save(tmp_path / "codes.safetensors"))
    assert again.settings == codec.settings
    assert torch.equal(again.encode(PIXELS), codec.encode(PIXELS))
    with pytest.raises(InputError, match=r"nothing\.safetensors"):
        StyleCodec.load(tmp_path / "nothing.safetensors")
    save_codec(ConvCodec(width=8), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors"):
        StyleCodec.load(tmp_path / "other.safetensors")
    write_state(tmp_path / "wrong", format=FORMAT, settings={"size": 17}, arrays={})
    with pytest.raises(InputError, match="size"):
        StyleCodec.load(tmp_path / "wrong")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda codec: codec.encode(PIXELS[..., :8]), r"expected \(b, 3, 16, 16\)"),
        (lambda codec: codec.decode(torch.zeros(1, 2, 8)), r"w: expected \(b, 3, 8\) codes, got \(1, 2, 8\)"),
        (lambda codec: train_codec(codec, PIXELS[..., :8, :], steps=1), "expected 16 x 16 px"),
        (lambda codec: StyleCodec(width=12), "a multiple of 8, got 12"),
    ],
)
def test_other_shapes_are_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(StyleCodec(size=16, dim=8, width=8))
