"""The bias of clipping: measured against its definition, and on a model's own gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tether.core.errors import InputError
from tether.methods.clipped_sgd_bias.clipping_bias import (
    ClipBiasMeter,
    clip_bias,
    clipped_sgd,
    clipped_sgd_floor,
    sample_gradients,
    two_point_floor,
    two_point_stationary_point,
)


def skewed(n: int = 40, d: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=draw, dtype=torch.float64).square() - 0.8


def clipped(rows: torch.Tensor, c: float) -> torch.Tensor:
    return rows * (c / rows.norm(dim=1, keepdim=True)).clamp(max=1)


def test_per_sample_bias_is_its_definition() -> None:
    rows = skewed()
    report = clip_bias(rows, c=0.9)
    mean = rows.mean(dim=0)
    torch.testing.assert_close(report.bias_norm[0], (clipped(rows, 0.9).mean(dim=0) - mean).norm())
    torch.testing.assert_close(report.relative_bias[0], report.bias_norm[0] / mean.norm())
    torch.testing.assert_close(
        report.cosine[0], F.cosine_similarity(clipped(rows, 0.9).mean(dim=0), mean, dim=0), rtol=1e-12, atol=0
    )
    assert report.clipped_fraction[0] == (rows.norm(dim=1) > 0.9).double().mean()
    torch.testing.assert_close(report.sigma, rows.var(dim=0).sum().sqrt())
    torch.testing.assert_close(report.mean_norm, mean.norm())
    assert report.floor_estimate[0] == clipped_sgd_floor(float(report.sigma), c=0.9)


def test_groups_are_clipped_after_they_are_averaged() -> None:
    rows = skewed(42)  # two rows are left over at 4 and 8, none at 2
    report = clip_bias(rows, c=0.5, batch_sizes=(1, 2, 4, 8))
    for place, size in enumerate((1, 2, 4, 8)):
        means = rows[: len(rows) // size * size].view(-1, size, 3).mean(dim=1)
        torch.testing.assert_close(report.bias_norm[place], (clipped(means, 0.5) - means).mean(dim=0).norm())
        assert report.clipped_fraction[place] == pytest.approx((means.norm(dim=1) > 0.5).double().mean().item())
        assert report.floor_estimate[place] == clipped_sgd_floor(float(report.sigma) / math.sqrt(size), c=0.5)


def test_rounds_average_over_random_groups() -> None:
    rows = skewed(24)
    several = [clip_bias(rows, c=0.5, batch_sizes=(1, 4), generator=torch.Generator().manual_seed(s)) for s in range(2)]
    assert several[0].bias_norm[1] != several[1].bias_norm[1]
    torch.testing.assert_close(several[0].bias_norm[0], several[1].bias_norm[0])
    many = clip_bias(rows, c=0.5, batch_sizes=(1, 4), generator=torch.Generator().manual_seed(0), rounds=200)
    torch.testing.assert_close(many.bias_norm[0], several[0].bias_norm[0])
    torch.testing.assert_close(many.sigma, several[0].sigma)
    draw = torch.Generator().manual_seed(7)
    picks = torch.stack([rows[torch.randperm(24, generator=draw)[:4]].mean(dim=0) for _ in range(4000)])
    torch.testing.assert_close(many.bias_norm[1], (clipped(picks, 0.5) - picks).mean(dim=0).norm(), rtol=0.05, atol=0)


def test_nothing_clipped_is_no_bias_and_symmetry_cancels() -> None:
    rows = skewed()
    loose = clip_bias(rows, c=1e6, batch_sizes=(1, 8))
    assert not loose.bias_norm.any()
    assert not loose.clipped_fraction.any()
    symmetric = clip_bias(torch.cat([rows, -rows]), c=0.3)
    assert symmetric.clipped_fraction[0] > 0.9
    assert symmetric.bias_norm[0] < 1e-15


def test_mere_shortening_keeps_the_direction() -> None:
    row = torch.tensor([3.0, 4.0], dtype=torch.float64)
    report = clip_bias(row.expand(4, 2), c=1.0)
    assert report.relative_bias[0] == pytest.approx(0.8)
    assert report.cosine[0] == pytest.approx(1.0)
    still = clip_bias(torch.zeros(3, 2), c=1.0)
    assert (still.relative_bias[0], still.sigma, still.cosine.isnan().all()) == (0, 0, True)


def test_a_list_and_a_stream_give_the_same() -> None:
    rows = skewed().float()
    meter = ClipBiasMeter(0.7, batch_sizes=(1, 4))
    for row in rows:
        meter.add(row.view(1, 3))
    for other in (clip_bias(rows, c=0.7, batch_sizes=(1, 4)), clip_bias(list(rows), c=0.7, batch_sizes=(1, 4))):
        torch.testing.assert_close(other.bias_norm, meter.report().bias_norm)
        torch.testing.assert_close(other.sigma, meter.report().sigma)


@pytest.mark.parametrize(
    ("rows", "keywords", "message"),
    [
        (torch.ones(1, 3), {}, "expected at least 2, got 1"),
        (torch.ones(0, 3), {}, "expected at least 2, got 0"),
        (torch.ones(4, 3), {"batch_sizes": (8,)}, "at most the 4 samples"),
        (torch.ones(4, 3), {"rounds": 3}, "rounds: expected 1, or more with a generator, got 3"),
        (torch.tensor([[1.0], [float("nan")]]), {}, "sample 1: expected finite numbers"),
        (torch.tensor([[1.0], [float("inf")]]), {}, "sample 1: expected finite numbers"),
        ([torch.ones(3), torch.ones(2)], {}, "sample 1: expected 3 numbers, got 2"),
    ],
)
def test_measuring_refuses(rows: torch.Tensor, keywords: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clip_bias(rows, **{"c": 1.0, **keywords})


def test_floors() -> None:
    assert clipped_sgd_floor(2.0, c=0.5) == 2.0
    assert clipped_sgd_floor(2.0, c=8.0) == 0.5
    assert clipped_sgd_floor(2.0, c=math.inf) == 0.0
    assert two_point_floor(1.0, c=1.0, u=0.5) == 0.25
    assert two_point_floor(1.0, c=3.0, u=0.5) == 0.0  # the large value, 2, is not clipped
    assert two_point_floor(1.0, c=1.0, u=0.5, batch_size=4) < 0.02
    for size in (1, 4):
        assert two_point_floor(0.0, c=1.0, u=0.5, batch_size=size) == 0.0
        assert two_point_floor(1.0, c=math.inf, u=0.5, batch_size=size) == pytest.approx(0.0, abs=1e-15)
    with pytest.raises(InputError, match="u: expected a number other than 1"):
        two_point_floor(1.0, c=1.0, u=1.0)


@pytest.mark.parametrize(
    ("p", "batch_size", "side"), [(0.45, 2, 1), (0.45, 3, -1), (0.3, 1, -1), (0.55, 2, -1), (0.8, 1, 1)]
)
def test_the_stationary_point_may_lie_on_either_side(p, batch_size, side):
    u, sigma, c = math.sqrt(p / (1 - p)), 4.0, 0.5
    point = two_point_stationary_point(sigma, c=c, u=u, batch_size=batch_size)
    outcomes = itertools.product([(p, -sigma / u), (1 - p, sigma * u)], repeat=batch_size)
    drift = sum(
        math.prod(chance for chance, _ in drawn)
        * max(-c, min(c, point + sum(noise for _, noise in drawn) / batch_size))
        for drawn in outcomes
    )
    assert drift == pytest.approx(0, abs=1e-12)
    assert math.copysign(1, point) == side
    assert two_point_floor(sigma, c=c, u=u, batch_size=batch_size) == abs(point)


@pytest.mark.parametrize("c", [0.5, 1.0, 4.0])
def test_the_expected_clipped_gradient_vanishes_at_the_floor(c: float) -> None:
    u = min(0.9, 1 / (2 * c))
    exact = two_point_floor(1.0, c=c, u=u)
    p = u * u / (1 + u * u)
    point = torch.tensor(-exact, dtype=torch.float64)
    drift = p * (point - 1 / u).clamp(-c, c) + (1 - p) * (point + u).clamp(-c, c)
    assert abs(drift) < 1e-15


def test_the_loop_refuses_and_reaches_the_floor() -> None:
    start = torch.zeros(1)
    with pytest.raises(InputError, match="noise: expected at least one step"):
        clipped_sgd(lambda x: x, x0=start, noise=[], lr=0.1, c=1.0, mode="sample")
    u, draw = 0.5, torch.Generator().manual_seed(0)
    rare = torch.rand(3000, 1, 100, 1, generator=draw) < u**2 / (1 + u**2)
    noise = torch.where(rare, -1 / u, u)
    points = clipped_sgd(lambda x: x, x0=torch.zeros(100, 1), noise=noise, lr=0.01, c=1.0, mode="sample")
    assert points[1500:].mean().item() == pytest.approx(-two_point_floor(1.0, c=1.0, u=u), rel=0.05)


def test_gradients_of_a_model_by_sample_and_by_batch() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    model.bias.requires_grad_(False)
    unused = nn.Parameter(torch.zeros(2))
    model.register_parameter("unused", unused)
    rows, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    each = torch.stack(list(sample_gradients(model, losses=[F.cross_entropy(model(rows), labels, reduction="none")])))
    assert each.shape == (6, 4 * 3 + 2)
    for place in range(6):
        alone = F.cross_entropy(model(rows[place : place + 1]), labels[place : place + 1])
        (wanted,) = torch.autograd.grad(alone, [model.weight])
        torch.testing.assert_close(each[place, :12], wanted.flatten())
    assert not each[:, 12:].any()
    whole = list(sample_gradients(model, losses=(F.cross_entropy(model(rows), labels) for _ in range(2))))
    torch.testing.assert_close(whole[1], each.mean(dim=0))
    assert model.weight.grad is None
    with pytest.raises(InputError, match="one for each sample, got shape"):
        list(sample_gradients(model, losses=[model(rows)]))
    with pytest.raises(InputError, match="no trainable parameter"):
        list(sample_gradients(nn.Linear(2, 2).requires_grad_(False), losses=[]))


def test_a_contrastive_model_gives_one_gradient_for_each_pair() -> None:
    from tether.losses import clip_loss
    from tether.models import create

    model = create("tiny", text={"vocabulary": 300, "end": 299})
    pictures = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[1, 5 + place, 299] for place in range(4)])

    def losses() -> torch.Tensor:
        image, text = model.encode_image(pictures).unit, model.encode_text(words).unit
        logits, targets = model.logit_scale * image @ text.T, torch.arange(4)
        return (
            F.cross_entropy(logits, targets, reduction="none") + F.cross_entropy(logits.T, targets, reduction="none")
        ) / 2

    each = torch.stack(list(sample_gradients(model, losses=[losses()])))
    assert len(each) == 4
    image, text = model.encode_image(pictures).unit, model.encode_text(words).unit
    (whole,) = sample_gradients(model, losses=[clip_loss(image, text, model.logit_scale, directions="mean")])
    torch.testing.assert_close(each.mean(dim=0), whole, rtol=1e-3, atol=1e-5)
    report = clip_bias(each, c=float(each.norm(dim=1).median()), batch_sizes=(1, 2))
    assert 0 < report.clipped_fraction[0] < 1
