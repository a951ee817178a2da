"""What ZClip promises beyond the contract of all clippers."""

from __future__ import annotations

import torch
from torch import nn

from tether.optim.clip import ZClip


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
