"""The one pass of norms that every clipper reads, and the mean potential of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tether.core import uniformity as potential
from tether.core.norms import gradient_norms
from tether.core.uniformity import cross_uniformity, uniformity
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


GENERATOR = torch.Generator().manual_seed(0)


def rows(count, width=5):
    return torch.randn(count, width, generator=GENERATOR, dtype=torch.float64)


def plain(left, right, *, hidden, t):
    exponent = -t * (left[:, None] - right[None]).square().sum(dim=2)
    return exponent[~hidden].exp().mean().log()


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("kept", [0, 10**9])  # made again in the backward, or kept
def test_values_and_gradients_equal_the_plain_form_with_and_without_labels(monkeypatch, block, kept):
    monkeypatch.setattr(potential, "BLOCK_ROWS", block)
    monkeypatch.setattr(potential, "KEPT_CELLS", kept)
    left, right = rows(9).requires_grad_(), rows(9).requires_grad_()
    for labels in (None, torch.tensor([1, 2, 1, 3, 4, 4, 4, 5, 6])):
        same = torch.eye(9, dtype=torch.bool) if labels is None else labels[:, None] == labels
        for t in (0.5, 2.0):
            for mine, theirs in (
                (uniformity(left, t=t, labels=labels), plain(left, left, hidden=same, t=t)),
                (cross_uniformity(left, right, t=t, labels=labels), plain(left, right, hidden=same, t=t)),
            ):
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
                leaves = (left, right)
                got = torch.autograd.grad(mine, leaves, allow_unused=True)
                wanted = torch.autograd.grad(theirs, leaves, allow_unused=True)
                for first, second in zip(got, wanted, strict=True):
                    if second is not None:
                        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


def test_equal_rows_are_at_distance_zero_and_have_a_finite_gradient():
    same = F.normalize(torch.ones(6, 4)).requires_grad_()
    value = uniformity(same)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(value, same)[0].abs().max() < 1e-5


def test_no_pair_left_is_zero_without_gradient():
    given = rows(5).requires_grad_()
    for value in (
        uniformity(given, labels=torch.zeros(5, dtype=torch.int64)),
        cross_uniformity(given, rows(5), labels=torch.ones(5, dtype=torch.int64)),
    ):
        assert value == 0
        assert torch.equal(torch.autograd.grad(value, given)[0], torch.zeros_like(given))


def test_half_precision_is_widened_under_autocast():
    given = F.normalize(rows(40, 16)).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = uniformity(given)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, uniformity(given.float()), rtol=1e-6, atol=0)


def test_far_points_do_not_underflow():
    given = torch.tensor([[0.0], [100.0]])
    assert uniformity(given).item() == pytest.approx(-20000)
