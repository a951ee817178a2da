"""The mode that moves last bits moves sums and functions, and leaves what is exact everywhere."""

from __future__ import annotations

import torch

import other_kernels
from other_kernels import OtherKernels


def test_every_operation_is_one_of_torchs():
    assert not [name for name in other_kernels._ROUNDED if not hasattr(torch.ops.aten, name)]


def test_sums_move_by_a_unit_and_the_same_each_time():
    rows = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    plain = rows @ rows.T
    with OtherKernels(1):
        moved, again = rows @ rows.T, rows @ rows.T
        scaled, halves = rows * rows, (torch.ones(4, 8) / 2).sum(1)
    assert torch.equal(moved, again)
    assert 0.2 < (moved != plain).float().mean() < 0.8
    torch.testing.assert_close(moved, plain, rtol=1.3e-7, atol=0)
    assert torch.equal(scaled, rows * rows)
    assert torch.equal(halves, torch.full((4,), 4.0))
