"""Parts of compression called as their papers' interfaces are written, by place."""

import torch
from torch import nn

from tether.compression.quantise import FakeQuant, octav_clip
from tether.methods.gate_norm import prune_attention
from tether.methods.norm_tweaking import NormTweaker
from tether.methods.trim import trim_tokens
from tether.models import create


def test_octav_takes_steps_and_tolerance() -> None:
    x = torch.linspace(-3, 3, 50) ** 3
    assert torch.equal(octav_clip(x, 4, True, None, 1, 0.0), octav_clip(x, 4, max_iter=1, tol=0.0))


def test_fake_quant_takes_gradient_and_observer() -> None:
    quant = FakeQuant(4, True, None, "pwl", "max")
    assert (quant.grad, quant.observer) == ("pwl", "max")


def test_the_tweaker_takes_rates_and_passes() -> None:
    tweaker = NormTweaker(lambda block: None, 1e-3, 0.5, 2)
    assert (tweaker.lr, tweaker.lr_scale, tweaker.iters) == (1e-3, 0.5, 2)


def test_pruning_takes_a_count_a_share_and_scores() -> None:
    by_count, by_share = create("tiny", seed=0), create("tiny", seed=0)
    assert prune_attention(by_count, 1) == prune_attention(by_share, None, 0.5, None)


def test_trim_takes_all_but_the_probe() -> None:
    h, text, rows, norm = torch.randn(2, 9, 4), torch.randn(2, 3), torch.randn(3, 4), nn.LayerNorm(4)
    placed = trim_tokens(h, text, rows, norm, 0.5, -1, False, 2.0, False, False)
    named = trim_tokens(
        h, text, rows, norm, ratio=0.5, sign=-1, normalize=False, iqr=2.0, per_image=False, aggregate=False
    )
    assert torch.equal(placed.tokens, named.tokens)
