"""Standardised filters, scaled activations and the residual network without normalisation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tether.core.errors import InputError
from tether.methods.nfnet_agc import AGC
from tether.methods.nfnet_agc.nf_resnet import NFBlock, NFResNet
from tether.methods.nfnet_agc.scaled_activation import GAMMAS, ScaledActivation
from tether.methods.nfnet_agc.scaled_std_conv import ScaledStdConv2d, standardised
from tether.optim import SGD


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", sorted(GAMMAS))
def test_activations_keep_unit_variance(name: str) -> None:
    variance = ScaledActivation(name)(drawn(200_000, 4)).var().item()
    # glu and log_softmax see their neighbours; the released constants are rounded from samples.
    wide = {"log_softmax": 0.4, "glu": 0.03}
    assert variance == pytest.approx(1.0, abs=wide.get(name, 0.02))


def test_activations_by_name() -> None:
    with pytest.raises(InputError, match=r"unknown choice 'gelo'; did you mean 'gelu'\?"):
        ScaledActivation("gelo")
    assert ScaledActivation("glu")(drawn(2, 6, 3, 3)).shape == (2, 3, 3, 3)
    assert "relu" in repr(ScaledActivation("relu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_filters_have_no_mean_and_length_one(dtype: torch.dtype) -> None:
    weight = (drawn(6, 5, 3, 3) + 3).to(dtype)
    got = standardised(weight, gain=torch.ones(6, dtype=dtype))
    assert got.dtype == dtype
    close = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.double().sum((1, 2, 3)), torch.zeros(6).double(), atol=20 * close, rtol=0)
    torch.testing.assert_close(got.double().flatten(1).norm(dim=1), torch.ones(6).double(), atol=close, rtol=0)


def test_a_constant_filter_gives_zeros_and_a_finite_gradient() -> None:
    weight = torch.full((2, 3, 3, 3), 0.5, requires_grad=True)
    got = standardised(weight, gain=torch.ones(2))
    assert not got.any()
    (got * drawn(2, 3, 3, 3, dtype=torch.float32)).sum().backward()
    assert weight.grad.isfinite().all()
    assert weight.grad.any()


def test_standardising_can_be_differentiated() -> None:
    weight, gain = drawn(3, 2, 3, 3).requires_grad_(), drawn(3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, g: standardised(w, gain=g), (weight, gain))


@pytest.mark.parametrize(
    ("size", "stride", "kernel", "dilation"), [(8, 2, 3, 1), (7, 2, 3, 1), (8, 1, 3, 2), (9, 2, 1, 1), (8, 2, 7, 1)]
)
def test_same_padding(size: int, stride: int, kernel: int, dilation: int) -> None:
    conv = ScaledStdConv2d(2, 3, kernel, stride=stride, dilation=dilation).double()
    x = drawn(1, 2, size, size)
    assert conv(x).shape[2:] == (math.ceil(size / stride),) * 2
    if stride == 1:
        wanted = F.conv2d(x, conv.standardised_weight(), conv.bias, padding="same", dilation=dilation)
        torch.testing.assert_close(conv(x), wanted)


def test_fixed_padding_groups_and_gamma() -> None:
    conv = ScaledStdConv2d(4, 6, (3, 1), padding=1, groups=2, gamma=GAMMAS["relu"]).double()
    lengths = conv.standardised_weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((6,), GAMMAS["relu"]).double(), rtol=1e-6, atol=0)
    assert conv(drawn(1, 4, 5, 5)).shape == (1, 6, 5, 7)
    assert "groups=2" in repr(conv)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InputError, match="groups: expected a divisor of 4 and 6, got 3"):
        ScaledStdConv2d(4, 6, 3, groups=3)
    with pytest.raises(InputError, match="halves the channels"):
        NFBlock(4, out_channels=4, activation="glu")
    with pytest.raises(InputError, match=r"depths: expected one for each of the widths \(8, 8, 8\), got \(1, 1\)"):
        NFResNet(classes=3, widths=(8, 8, 8), depths=(1, 1))


@pytest.mark.parametrize("branch", ["basic", "bottleneck", "nfnet"])
@pytest.mark.parametrize("gate", [0.0, 0.5])
def test_a_new_block_is_the_identity_and_then_adds_its_branch(branch: str, gate: float) -> None:
    block = NFBlock(8, out_channels=8, branch=branch, squeeze_excite=gate, activation="gelu").double()
    x = drawn(2, 8, 6, 6)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.skip_gain.fill_(1.0)
        change = block(x) - x
        block.skip_gain.fill_(0.5)
        torch.testing.assert_close(block(x) - x, change / 2)
    assert change.abs().max() > 0


@pytest.mark.parametrize("branch", ["bottleneck", "nfnet"])
@pytest.mark.parametrize(("channels", "stride", "size"), [(24, 1, 6), (16, 1, 6), (24, 2, 6), (24, 2, 7)])
def test_timms_block_is_the_same_up_to_eps(branch: str, channels: int, stride: int, size: int) -> None:
    from functools import partial

    from timm.layers import ScaledStdConv2dSame, SEModule
    from timm.models.nfnet import NormFreeBlock, act_with_gamma

    gated = branch == "nfnet"
    theirs = NormFreeBlock(
        channels,
        16,
        stride=stride,
        alpha=0.2,
        beta=0.9,
        bottle_ratio=0.5 if gated else 0.25,
        reg=False,
        extra_conv=gated,
        skipinit=True,
        attn_layer=partial(SEModule, rd_ratio=0.5, rd_divisor=1) if gated else None,
        act_layer=act_with_gamma("relu", gamma=GAMMAS["relu"]),
        conv_layer=partial(ScaledStdConv2dSame, eps=1e-12),
    ).double()
    ours = NFBlock(
        channels,
        out_channels=16,
        stride=stride,
        beta=0.9,
        branch=branch,
        squeeze_excite=0.5 if gated else 0.0,
    ).double()
    names = ["conv1", "conv2", "conv2b", "conv3"] if gated else ["conv1", "conv2", "conv3"]
    layers = [(getattr(theirs, name), ours.convs[place]) for place, name in enumerate(names)]
    if ours.shortcut is not None:
        layers.append((theirs.downsample.conv, ours.shortcut))
    with torch.no_grad():
        for place, (their, our) in enumerate(layers):
            our.weight.copy_(their.weight)
            our.gain.copy_(drawn(len(our.gain), seed=place) + 1)
            our.bias.copy_(drawn(len(our.bias), seed=place + 9))
            their.gain.copy_(our.gain.view(-1, 1, 1, 1))
            their.bias.copy_(our.bias)
        if ours.gate is not None:
            for their, our in ((theirs.attn_last.fc1, ours.gate.down), (theirs.attn_last.fc2, ours.gate.up)):
                their.weight.copy_(our.weight[:, :, None, None])
                their.bias.copy_(our.bias)
        theirs.skipinit_gain.fill_(0.7)
        ours.skip_gain.fill_(0.7)
        x = drawn(2, channels, size, size)
        torch.testing.assert_close(ours(x), theirs(x.clone()), rtol=1e-8, atol=1e-9)


def test_expected_deviations_follow_the_release_and_the_signal() -> None:
    network = NFResNet(classes=4, widths=(16, 32), depths=(3, 2), stem="pixel", seed=1)
    grown = math.hypot(1.0, 0.2)
    expected = [1.0, grown, math.hypot(grown, 0.2), math.hypot(grown, 0.2, 0.2), grown]
    assert network.betas == pytest.approx([1 / deviation for deviation in expected])
    # With every branch at full strength, what each block sees has about unit variance once it is scaled.
    network = NFResNet(classes=4, widths=(64,), depths=(6,), stem="pixel", seed=1)
    x = network.stem(drawn(8, 3, 16, 16, dtype=torch.float32))
    with torch.no_grad():
        for block, beta in zip(network.blocks, network.betas, strict=True):
            assert 0.5 < (x * beta).var().item() < 2.0
            block.skip_gain.fill_(1.0)
            x = block(x)


@pytest.mark.parametrize("stem", ["pixel", "patch"])
def test_shapes_seed_and_standard_generator(stem: str) -> None:
    state = torch.get_rng_state()
    make = {"classes": 5, "widths": (8, 16), "depths": (1, 1), "branch": "nfnet", "squeeze_excite": 0.5, "stem": stem}
    first, again, other = NFResNet(3, **make), NFResNet(3, **make), NFResNet(3, **make, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    x = drawn(2, 3, 32, 24, dtype=torch.float32)
    assert first(x).shape == (2, 5)
    assert first.features(x).shape == ((2, 16, 16, 12) if stem == "pixel" else (2, 16, 4, 3))
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


def test_trains_where_it_would_not_without_clipping() -> None:
    """A few steps at a high rate: the clipped network learns the batch by heart, the other leaves the numbers."""
    x, labels = drawn(32, 1, 8, 8, dtype=torch.float32), torch.arange(32) % 4
    last = {}
    for name in ("clipped", "free"):
        network = NFResNet(1, classes=4, widths=(8, 8), depths=(1, 1), stem="pixel")
        optimizer = SGD(list(network.parameters()), lr=0.5)
        clipper = AGC(0.02, exclude=["head.weight"])
        for step in range(100):
            loss = F.cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            if name == "clipped":
                clipper.clip_(network.named_parameters(), step=step)
            else:
                nn.utils.clip_grad_norm_(network.parameters(), float("inf"))
            optimizer.step()
        last[name] = loss.item()
    assert last["clipped"] < 0.5
    assert not last["free"] < 0.5
