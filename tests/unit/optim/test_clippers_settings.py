"""Settings out of range, and what ZClip promises beyond the contract of all clippers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tether.core.errors import InputError
from tether.optim.clip import AGC, GlobalNorm, ZClip


@pytest.mark.parametrize(
    ("part", "keywords", "message"),
    [
        (GlobalNorm, {"max_norm": 0.0}, "max_norm: expected a number above 0, got 0.0"),
        (GlobalNorm, {"max_norm": float("nan")}, "max_norm"),
        (GlobalNorm, {"eps": -1.0}, "eps"),
        (ZClip, {"alpha": 1.0}, r"alpha: expected a number in \[0, 1\), got 1.0"),
        (ZClip, {"alpha": -0.1}, "alpha"),
        (ZClip, {"z_thresh": 0.0}, "z_thresh"),
        (ZClip, {"warmup_steps": 0}, "warmup_steps"),
        (ZClip, {"max_grad_norm": 0.0}, "max_grad_norm"),
        (ZClip, {"mode": "median"}, "mode: expected 'zscore' or 'percentile', got 'median'"),
        (ZClip, {"clip_option": "most"}, "clip_option"),
        (ZClip, {"clip_factor": 0.0}, "clip_factor"),
        (ZClip, {"min_threshold_ratio": -1.0}, "min_threshold_ratio"),
        (ZClip, {"eps": float("inf")}, "eps"),
        (AGC, {"clipping": 0.0}, "clipping: expected a number above 0, got 0.0"),
        (AGC, {"clipping": float("nan")}, "clipping"),
        (AGC, {"eps": 0.0}, "eps: expected a number above 0, got 0.0"),
        (AGC, {"rule": "rows"}, "rule: expected 'nfnet' or 'timm', got 'rows'"),
        (AGC, {"exclude": "head.weight"}, "exclude: expected a list of name patterns, got 'head.weight'"),
    ],
)
def test_settings_out_of_range(part: type, keywords: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        part(**keywords)


def spiral(ratio: float) -> ZClip:
    """Settings under which clipped values pull the mean down, on gradients of constant distribution."""
    clipper = ZClip(clip_factor=0.55, alpha=0.8, z_thresh=1.5, max_grad_norm=None, min_threshold_ratio=ratio)
    generator = torch.Generator().manual_seed(0)
    for step in range(140):
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        parameter.grad = 5 + torch.randn(1, generator=generator, dtype=torch.float64)
        clipper.clip_([("w", parameter)], step=step)
    return clipper


def test_threshold_ratio_stops_the_death_spiral() -> None:
    free, held = spiral(0.0), spiral(0.5)
    assert free.mean < 1
    assert free.clipped_fraction > 0.6
    assert held.mean > 2.4


def test_zclip_after_constant_warm_up() -> None:
    clipper = ZClip(warmup_steps=4, max_grad_norm=None)
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    for step in range(5):
        parameter.grad = torch.tensor([2.0 if step < 4 else 6.0], dtype=torch.float64)
        report = clipper.clip_([("w", parameter)], step=step)
    assert clipper.variance >= 0
    torch.testing.assert_close(parameter.grad.item(), 2.0, rtol=1e-6, atol=0)
    assert report.norm == 6
