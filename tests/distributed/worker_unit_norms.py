"""One of two gloo processes: AGC on tensors sharded along every axis against the same tensors whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from tether.core.errors import InputError
from tether.methods.nfnet_agc import AGC

WORLD = 2
SHAPES = ((5, 4), (1, 6), (3, 4, 5), (1, 5, 3), (4, 3, 3, 2), (5, 1, 1, 1), (7,), (1,))
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def make(shape: tuple[int, ...], draw: torch.Generator) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))  # pyrefly: ignore


def parameter(weight: Tensor, gradient: Tensor, mesh: DeviceMesh, placements: list[Placement]) -> nn.Parameter:
    sharded = nn.Parameter(distribute_tensor(weight, mesh, placements))
    sharded.grad = distribute_tensor(gradient, mesh, placements)
    return sharded


def check_rule(rule: str, *, exclude: list[str], poisoned: bool) -> None:
    line, square = init_device_mesh("cpu", (WORLD,)), init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("a", "b"))
    draw = torch.Generator().manual_seed(0)
    whole, split = [], []
    for shape in SHAPES:
        ways = [(line, [Replicate()]), *((line, [Shard(axis)]) for axis in range(len(shape)))]
        if len(shape) > 1:
            ways.append((square, [Shard(1), Shard(0)]))
        for mesh, placements in ways:
            weight, gradient = make(shape, draw)
            gradient *= torch.rand(shape[0], *([1] * (len(shape) - 1)), generator=draw, dtype=torch.float64) * 0.05
            if poisoned and shape == (5, 4):
                gradient[-1, -1] = torch.nan  # only the last process holds it
            name = f"{shape} {placements}"
            plain = nn.Parameter(weight.clone())
            plain.grad = gradient.clone()
            whole.append((name, plain))
            split.append((name, parameter(weight, gradient, mesh, placements)))
    one, many = AGC(0.02, rule=rule, exclude=exclude), AGC(0.02, rule=rule, exclude=exclude)  # pyrefly: ignore
    reports = one.clip_(whole, step=0), many.clip_(split, step=0)
    assert bool(reports[0].skip) == poisoned
    for key in ("norm", "scale", "threshold", "skip"):
        torch.testing.assert_close(getattr(reports[1], key), getattr(reports[0], key), equal_nan=True, **CLOSE)
    for key in ("clipped_fraction", "scale"):
        torch.testing.assert_close(getattr(many.last, key), getattr(one.last, key), **CLOSE)
    assert poisoned or 0 < one.last.clipped_fraction.mean() < 1
    for (name, plain), (_, sharded) in zip(whole, split, strict=True):
        assert isinstance(sharded.grad, DTensor)
        torch.testing.assert_close(sharded.grad.full_tensor(), plain.grad, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


def check_refusal() -> None:
    """A gradient cut along another axis than its weight has no units on one process."""
    mesh = init_device_mesh("cpu", (WORLD,))
    sharded = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
    sharded.grad = distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)])
    with pytest.raises(InputError, match="'odd': expected it to be sharded as its weight is"):
        AGC().clip_([("odd", sharded)], step=0)


def check() -> None:
    for rule in ("nfnet", "timm"):
        check_rule(rule, exclude=[], poisoned=False)
        check_rule(rule, exclude=["(5, 4)*", "(3, 4, 5)*"], poisoned=False)
        check_rule(rule, exclude=[], poisoned=True)
    check_refusal()
