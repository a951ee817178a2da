"""Codewords of scales: what they add up to, what training moves, codewords that begin anew, and codecs with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.models.latent.codec import ConvCodec
from tether.models.latent.codecs import load_codec, save_codec
from tether.models.latent.quantizer import MultiScaleQuantizer
from tether.training.codec_training import train_codec

SMALL = {"vocab": 16, "channels": 4, "scales": (1, 2, 4)}
PIXELS = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TABLE = {"vocab": 32, "scales": (1, 2, 4)}


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def quantizer(**settings) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    made = MultiScaleQuantizer(**{**SMALL, **settings})
    with torch.no_grad():
        made.codewords.normal_()
    return made.eval()


@pytest.mark.parametrize("settings", [{}, {"znorm": True}, {"phi": 1}, {"phi": 0}, {"ratio": 0.0}, {"scales": (4,)}])
def test_scales_add_up_and_tell_what_came_before(settings: dict, features: torch.Tensor) -> None:
    made = quantizer(**settings)
    ids = made.encode(features)
    assert [one.shape for one in ids] == [(3, length) for length in made.lengths]
    partial = made.partial(ids)
    assert torch.allclose(partial[-1], made(features)[0], atol=1e-5)
    told = made.teacher_input(ids)
    assert told.shape == (3, sum(made.lengths[1:]), 4)
    for scale, some in enumerate(told.split(made.lengths[1:], dim=1) if told.shape[1] else []):
        side = made.scales[scale + 1]
        wanted = F.adaptive_avg_pool2d(partial[scale], side).flatten(2).transpose(1, 2)
        assert torch.allclose(some, wanted, atol=1e-5)


def test_the_nearest_codeword_by_distance_or_by_cosine(features: torch.Tensor) -> None:
    for znorm in (False, True):
        made = quantizer(scales=(4,), znorm=znorm, ratio=0.0)
        rows = features.flatten(2).transpose(1, 2)
        table = F.normalize(made.codewords, dim=1) if znorm else made.codewords
        rows = F.normalize(rows, dim=2) if znorm else rows
        assert torch.equal(made.encode(features)[0], torch.cdist(rows, table.expand(3, -1, -1)).argmin(dim=2))


def test_gradient_passes_to_the_features_as_it_is(features: torch.Tensor) -> None:
    features.requires_grad_()
    made = quantizer()
    weight = torch.randn(features.shape)
    (found,) = torch.autograd.grad((made(features)[0] * weight).sum(), features)
    assert torch.allclose(found, weight)
    half = made(features.detach().bfloat16())
    assert half[0].dtype == torch.bfloat16
    assert half[1].dtype == torch.float32


def test_codewords_that_nothing_chooses_begin_anew_at_features(features: torch.Tensor) -> None:
    made = quantizer()
    with torch.no_grad():
        made.codewords[1:] = 100.0  # far from everything
    before = made.codewords.detach().clone()
    made(features)
    assert torch.equal(made.codewords, before)  # at rest nothing moves
    made.train()
    for _ in range(60):
        made(features)
    assert int((made.codewords[:, 0] == 100).sum()) == 0
    assert len(torch.cat(made.encode(features), dim=1).unique()) > 4
    still = quantizer(restart=0.0).train()
    with torch.no_grad():
        still.codewords[1:] = 100.0
    for _ in range(60):
        still(features)
    assert int((still.codewords[:, 0] == 100).sum()) == 15


def test_a_codec_has_images_as_codewords(tmp_path: Path) -> None:
    codec = ConvCodec(channels=4, downsampling=4, width=8, quantizer=TABLE)
    losses = train_codec(codec, PIXELS, steps=40, batch_size=6, learning_rate=3e-3)
    assert losses[-1] < losses[0]
    ids = codec.ids(PIXELS)
    assert [one.shape[1] for one in ids] == [1, 4, 16]
    assert torch.allclose(codec.shown(ids), codec.decode(codec.encode(PIXELS)), atol=1e-5)
    again = load_codec(save_codec(codec, tmp_path / "codec.safetensors"))
    assert again.settings == codec.settings
    assert all(torch.equal(one, other) for one, other in zip(ids, again.ids(PIXELS), strict=True))


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from tether.core.errors import StoppedError

    def trained(**settings) -> ConvCodec:
        codec = ConvCodec(channels=4, downsampling=4, width=8, quantizer=TABLE)
        train_codec(codec, PIXELS, steps=8, batch_size=4, **settings)
        return codec

    seen: list[int] = []
    with pytest.raises(StoppedError):
        trained(folder=tmp_path, on_step=lambda report: seen.append(report.step), should_stop=lambda: len(seen) == 5)
    found, wanted = trained(folder=tmp_path), trained()
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MultiScaleQuantizer(vocab=16, channels=4, scales=(1, 3, 3)), "scales: expected rising sides"),
        (lambda: MultiScaleQuantizer(vocab=1, channels=4, scales=(1, 2)), "vocab: expected .* in .2"),
        (lambda: MultiScaleQuantizer(vocab=16, channels=4, scales=()), "scales: expected"),
        (lambda: quantizer().encode(torch.zeros(1, 4, 5, 5)), r"expected \(b, 4, 4, 4\), .* got \(1, 4, 5, 5\)"),
        (lambda: quantizer().decode([torch.zeros(1, 1).long()] * 4), "one tensor for each of 1 to 3 scales, got 4"),
        (lambda: quantizer().decode([torch.zeros(1, 3).long()]), r"ids\[0\]: expected \(b, 1\)"),
        (lambda: quantizer().decode([torch.full((1, 1), 16)]), r"ids\[0\]: expected numbers in 0 to 15"),
        (lambda: ConvCodec().ids(PIXELS), "expected one with codewords"),
        (lambda: ConvCodec(quantizer={"vocab": 8}), "scales"),
        (lambda: ConvCodec(quantizer={"vocab": 8, "scales": (1,), "size": 3}), "quantizer.*unknown key 'size'"),
    ],
)
def test_bad_quantizers_are_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
