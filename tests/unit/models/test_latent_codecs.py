"""Codecs: what they give, how they are kept in files, trained, held to a scale, and taken from diffusers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np
import pytest
import torch

from tether.core.errors import InputError, MissingExtraError
from tether.core.state_file import write_state
from tether.models.latent.codec import Codec, ConvCodec
from tether.models.latent.codecs import CODECS, FORMAT, load_codec, save_codec
from tether.models.latent.diffusers import DiffusersCodec
from tether.models.latent.spec import LatentSpec
from tether.models.towers.frozen_copy import buffer_copy
from tether.training.codec_training import train_codec

PIXELS = torch.randint(0, 256, (4, 3, 16, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMALL = {"channels": 3, "downsampling": 4, "width": 8}
VAE = {
    "block_out_channels": (8, 16), "down_block_types": ["DownEncoderBlock2D"] * 2, "latent_channels": 4,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 4, "sample_size": 16, "scaling_factor": 0.13025,
}  # fmt: skip


@pytest.mark.parametrize("downsampling", [2, 4, 8])
def test_images_become_latents_and_latents_images(downsampling: int) -> None:
    codec = ConvCodec(channels=5, downsampling=downsampling, width=8, scale=0.5)
    latents = codec.encode(PIXELS)
    assert latents.shape == (4, 5, 16 // downsampling, 32 // downsampling)
    assert torch.equal(codec.encode(PIXELS / 127.5 - 1), latents)
    assert torch.equal(latents, 0.5 * ConvCodec(channels=5, downsampling=downsampling, width=8).encode(PIXELS))
    assert codec.decode(latents).shape == PIXELS.shape
    assert isinstance(codec, Codec)


def test_a_file_gives_back_the_codec(tmp_path: Path) -> None:
    codec = ConvCodec(**SMALL, seed=3)
    train_codec(codec, PIXELS, steps=2, batch_size=2)
    again = load_codec(save_codec(codec, tmp_path / "codec.safetensors"))
    assert (again.latent, again.settings) == (codec.latent, codec.settings)
    assert torch.equal(again.encode(PIXELS), codec.encode(PIXELS))
    assert len(again.latent.mean) == 3


def test_training_learns_and_scales() -> None:
    codec = ConvCodec(**SMALL)
    losses = train_codec(codec, PIXELS, steps=30, batch_size=4)
    assert losses[-1] < losses[0]
    latents = codec.encode(PIXELS)
    assert latents.std().item() == pytest.approx(1, rel=1e-4)
    assert codec.latent.mean == pytest.approx(latents.mean((0, 2, 3)).tolist(), abs=1e-5)
    other = ConvCodec(**SMALL)
    assert train_codec(other, PIXELS, steps=30, batch_size=4) == losses
    with pytest.raises(InputError, match="uint8, got"):
        train_codec(codec, PIXELS.float(), steps=1)


def test_a_resting_codec_has_no_parameters() -> None:
    codec = ConvCodec(**SMALL)
    held = buffer_copy(codec)
    assert not list(held.parameters())
    assert held.state_dict().keys() == codec.state_dict().keys()
    assert torch.equal(held.encode(PIXELS), codec.encode(PIXELS))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda codec: codec.encode(PIXELS[:, :1]), r"expected \(b, 3, h, w\), got \(4, 1, 16, 32\)"),
        (lambda codec: codec.encode(PIXELS[..., :30]), r"sides that 4 .*got \(16, 30\)"),
        (lambda codec: codec.decode(torch.zeros(1, 4, 2, 2)), r"expected \(b, 3, h, w\), got \(1, 4, 2, 2\)"),
        (lambda codec: load_codec("no/such.safetensors"), "no/such.safetensors: no such file.*train_codec"),
        (lambda codec: ConvCodec(width=12), "width: expected a multiple of 8, got 12"),
        (lambda codec: LatentSpec(mean=(0.0,), std=(1.0,)), "mean: expected 4 numbers"),
        (lambda codec: LatentSpec(mean=(0.0,) * 4), "std: expected 4 numbers"),
        (lambda codec: LatentSpec.read({"scales": 1}, where="latent"), "latent: unknown key 'scales'; did you mean"),
        (lambda codec: LatentSpec.read({"scale": 0.0}, where="latent"), "latent.scale: expected"),
    ],
)
def test_bad_input(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(ConvCodec(**SMALL))


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: expected the state of a codec"):
        load_codec(tmp_path / "other.safetensors")
    path = save_codec(ConvCodec(**SMALL), tmp_path / "codec.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(InputError, match="damaged"):
        load_codec(path)
    large = {**ConvCodec(**SMALL).settings, "width": 1024, "downsampling": 32}
    write_state(path, format=FORMAT, settings=large, arrays={"x": np.zeros(1, np.float32)})
    before = getrusage(RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="another architecture"):
        load_codec(path)
    assert getrusage(RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the codec would have 1.7 GB


KNOWN = LatentSpec(scale=0.5, mean=(0.0, 1.0, 0.0, 0.0), std=(1.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(KNOWN, scale=0.25), "latents of scale 0.25, the model reads those of 0.5"),
        (replace(KNOWN, downsampling=16), "downsampling 16, the model reads those of 8"),
        (replace(KNOWN, mean=(0.0, -1.0, 0.0, 0.0)), "channel 1 has mean -1 and deviation 1, .* they are 1 and 1"),
        (replace(KNOWN, std=(1.0, 1.0, 1.0, 3.0)), "channel 3 has mean 0 and deviation 3"),
    ],
)
def test_codecs_that_do_not_agree_are_told_with_both(other: LatentSpec, said: str) -> None:
    with pytest.raises(InputError, match=said):
        KNOWN.agree(other, where="codec")
    KNOWN.agree(replace(KNOWN, mean=(), std=()), where="codec")


def test_latents_of_another_scale_are_told() -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    KNOWN.check(latents)
    for wrong in (7.7, 0.13):
        with pytest.raises(
            InputError, match=r"another scale: .*model's codec 1.12; expected latents times 0.5 \(scale\)"
        ):
            KNOWN.check(wrong * latents)
    replace(KNOWN, mean=(), std=()).check(7.7 * latents)


def test_diffusers_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"'diffusers'.*generate"):
        DiffusersCodec(config={})
    assert CODECS["diffusers"] is DiffusersCodec


def test_diffusers_auto_encoder(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs tether-clip[generate]")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(**VAE, shift_factor=0.5).eval()
    vae.save_pretrained(tmp_path / "vae")
    codec = load_codec(tmp_path / "vae")
    assert (codec.latent.scale, codec.latent.downsampling) == (0.13025, 2)
    with torch.no_grad():
        latents = (vae.encode(PIXELS / 127.5 - 1).latent_dist.mode() - 0.5) * 0.13025
        assert torch.equal(codec.encode(PIXELS), latents)
        assert torch.equal(codec.decode(latents), vae.decode(latents / 0.13025 + 0.5).sample)
        codec.measure_(PIXELS)
        again = load_codec(save_codec(codec, tmp_path / "codec.safetensors"))
        assert again.latent == codec.latent
        assert torch.equal(buffer_copy(again).encode(PIXELS), latents)
    with pytest.raises(InputError, match="config"):
        DiffusersCodec(config={"block_out_channels": "wrong"})
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    for key, value, said in (
        ("shift_factor", "much", "no AutoencoderKL"),
        ("up_block_types", [], "another architecture"),
        ("block_out_channels", [], "no AutoencoderKL"),
        ("block_out_channels", [8, 2**23], "another architecture"),
    ):
        (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(InputError, match=rf"vae.*: .*{said}"):
            load_codec(tmp_path / "vae")
