"""The one pass of norms that every clipper reads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tether.core.norms import gradient_norms
from tether.optim.clip import GlobalNorm


def test_large_finite_gradients_are_not_taken_for_infinite() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3e25, 4e25, 0.0])
    report = GlobalNorm(1.0).clip_([("w", parameter)], step=0)
    assert not report.skip
    torch.testing.assert_close(report.norm.item(), 5e25)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8, 0.0]))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norms_of_long_and_strided_tensors(layout: str, dtype: torch.dtype) -> None:
    gradient = torch.rand(3, 4, 300, 400, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 0.5
    if layout == "transposed":
        gradient = gradient.transpose(2, 3)
    elif layout == "channels last":
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=dtype))
    parameter.grad = gradient
    norms = gradient_norms([("w", parameter)])
    expected = gradient.double().square().sum()
    torch.testing.assert_close(norms.squares[0], expected, rtol=1e-5 if layout != "contiguous" else 3e-7, atol=0)
