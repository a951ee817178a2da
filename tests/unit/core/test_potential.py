import pytest
import torch
import torch.nn.functional as F

from tether.core import uniformity as potential
from tether.core.uniformity import cross_uniformity, uniformity

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
