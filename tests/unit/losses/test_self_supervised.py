"""Losses between views of the same images."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.losses import nt_xent_loss, siamese_loss


def rows(*, seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_contrast_written_out():
    first, second = rows(seed=1), rows(seed=2)
    both = F.normalize(torch.cat([first, second]), dim=1)
    logits = (both @ both.T / 0.3).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(logits, torch.arange(10).roll(5))
    torch.testing.assert_close(nt_xent_loss(first, second, temperature=0.3), expected)
    torch.testing.assert_close(nt_xent_loss(second, 3 * first, temperature=0.3), expected)


def test_one_image_has_no_other():
    first, second = rows()[:1].requires_grad_(), rows(seed=1)[:1]
    loss = nt_xent_loss(first, second)
    loss.backward()
    assert loss == 0
    assert first.grad.tolist() == torch.zeros(1, 8).tolist()


def test_siamese_loss_is_a_squared_distance_and_leaves_the_target_alone():
    first, second = rows(seed=1).requires_grad_(), rows(seed=2).requires_grad_()
    loss = siamese_loss(first, second)
    units = F.normalize(first, dim=1), F.normalize(second, dim=1)
    torch.testing.assert_close(loss, (units[0] - units[1]).square().sum(dim=1).mean())
    loss.backward()
    assert first.grad.any()
    assert second.grad is None
    assert math.isclose(siamese_loss(first, 2 * first).item(), 0, abs_tol=1e-12)


@pytest.mark.parametrize("loss", [nt_xent_loss, siamese_loss])
@pytest.mark.parametrize("other", [(4, 8), (5, 7), (0, 8)])
def test_views_of_unequal_length_are_refused(loss, other):
    with pytest.raises(InputError, match=r"as many rows \(b, d\) of both views, got \(.* and "):
        loss(torch.zeros(5 if other[0] else 0, 8), torch.zeros(*other))


def test_half_precision_is_widened():
    first, second = rows().bfloat16(), rows(seed=1).bfloat16()
    assert nt_xent_loss(first, second).dtype == siamese_loss(first, second).dtype == torch.float32
