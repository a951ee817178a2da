"""Heads for losses between views."""

from __future__ import annotations

import torch
from torch import nn

from tether.methods.improved_baselines.projection_head import ProjectionHead


def head(**settings) -> ProjectionHead:
    given = {"dim": 16, "state": 24, "generator": torch.Generator().manual_seed(0)}
    return ProjectionHead(hidden=32, out=4, **settings, **given)


def test_it_is_linear_layers_with_batch_norm_and_relu():
    made = head(layers=3, last="affine")
    first, _, _, second, _, _, last = made.layers
    plain = nn.Sequential(first, nn.BatchNorm1d(32), nn.ReLU(), second, nn.BatchNorm1d(32), nn.ReLU(), last)
    rows = torch.randn(7, 16)
    torch.testing.assert_close(made(rows), plain(rows))
    assert [layer.bias is not None for layer in (first, second, last)] == [False, False, True]
    assert head(layers=1).layers[0].weight.shape == (4, 16)


def test_one_row_and_evaluation_are_like_any_batch():
    made = head()
    assert made(torch.randn(1, 16)).isfinite().all()
    rows = torch.randn(6, 16)
    assert torch.equal(made(rows), made.eval()(rows))
    assert not list(made.buffers())


def test_what_goes_in():
    rows = torch.randn(6, 16)
    assert head(inputs=4)(head()(rows)).shape == (6, 4)
    assert head(inputs="state")(torch.randn(6, 24)).shape == (6, 4)


def test_two_processes_see_one_batch():
    """Statistics are those of all rows: here the other process has the same rows in another order."""
    made, rows = head(), torch.randn(6, 16)

    class Both:
        world = 2

        def __call__(self, part):
            return torch.cat([part, part])

    torch.testing.assert_close(made(rows, gather=Both()), made(rows))
