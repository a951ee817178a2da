"""The largest entry of tensors of every kind; sharded ones are in tests/distributed/test_sharded_optimizers.py."""

from __future__ import annotations

import math

import torch

from tether.optim.maxima import maxima


def test_largest_entries_by_absolute_value() -> None:
    parts = [
        torch.tensor([[1.0, -3.0], [2.0, 0.5]]),
        torch.tensor(-0.25),
        torch.empty(0, 4),
        torch.tensor([0.0, 7.0]).bfloat16(),
        torch.arange(6.0, dtype=torch.float64).view(2, 3).t(),
    ]
    got = maxima(parts, shards=[()] * len(parts))
    assert got.dtype == torch.float64
    assert got.tolist() == [3.0, 0.25, 0.0, 7.0, 5.0]


def test_what_is_not_finite_shows() -> None:
    got = maxima([torch.tensor([1.0, math.nan]), torch.tensor([-math.inf, 1.0]), torch.ones(2)], shards=[()] * 3)
    assert got.isfinite().tolist() == [False, False, True]
    assert got[0].isnan()
