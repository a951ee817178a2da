"""One of two gloo processes: compares every optimiser with what one process computes on the whole batch.

Half way the state is written whole, read into a fresh optimiser and gone on with, in the other arrangement too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tether.core.component import build
from tether.core.errors import InputError
from tether.optim import OPTIMIZERS, parameter_groups, with_timm
from tether.optim.optimizer_base import Stepper
from tether.training.parallel import load_optimizer_tensors, optimizer_tensors

WORLD, ROWS, STEPS, HALF, POISONED = 2, 5, 12, 6, 4
SPECS: dict[str, dict[str, Any]] = {name: {"name": name} for name in OPTIMIZERS} | {
    "spam": {"name": "spam", "reset_interval": 5, "warmup_steps": 2, "accumulate_steps": 2, "threshold": 3.0},
    "stable_spam": {"name": "stable_spam", "reset_interval": 5, "amsgrad": True},
    "clean": {"name": "stable_spam", "reset_interval": 4, "reset_mode": "clean", "inplace_grad": True},
    "coordinate": {"name": "clip_radagrad_d", "mode": "coordinate", "clip_scope": "tensor", "clip": 0.1},
    "lamb, all": {"name": "lamb", "lr": 0.05, "always_adapt": True, "trust_clip": True, "max_grad_norm": None},
    "element": {"name": "clip_radagrad_d", "clip_scope": "element", "clip": 0.05},
}


class Network(nn.Module):
    """Sizes that two processes cannot share evenly; one of them gets nothing of ``gain``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh()) * self.gain


def network() -> nn.Module:
    return Network().double()


def sharded(module: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (WORLD,))
    fully_shard(module.first, mesh=mesh)  # pyrefly: ignore
    return fully_shard(module, mesh=mesh)


def plain_name(name: str) -> str:
    return name.removeprefix("module.")


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def make(spec: dict[str, Any], module: nn.Module) -> torch.optim.Optimizer:
    return build(spec, OPTIMIZERS, where="test", params=parameter_groups(module, weight_decay=0.1))


def poison(module: nn.Module, rank: int) -> None:
    """One NaN in the last row of the first weight, which under sharding only the last process holds."""
    gradient = next(parameter.grad for name, parameter in module.named_parameters() if name.endswith("first.weight"))
    if isinstance(gradient, DTensor):
        if rank == WORLD - 1:
            gradient.to_local()[-1, 0] = torch.nan
    elif gradient is not None:
        gradient[-1, 0] = torch.nan


def check_timm() -> None:
    """An optimiser that would take a shard for the tensor is refused, LAMB with its norms before all."""
    spec, module = {"name": "timm/lamb"}, sharded(network())
    try:
        build(spec, with_timm(OPTIMIZERS, spec), where="test", params=parameter_groups(module, weight_decay=0.1))
    except InputError as error:
        # A worker is a process of its own without pytest, whose exit code is what the test reads; hence no raises().
        assert "timm/lamb would see its shard of each tensor alone; use sharding: ddp" in str(error)  # noqa: PT017
    else:
        raise AssertionError("timm/lamb took sharded tensors")


def check(wrap: Callable[[nn.Module], nn.Module]) -> None:
    rank = dist.get_rank()
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    for label, spec in SPECS.items():
        alone, shared = network(), wrap(network())
        optimizers = [make(spec, alone), make(spec, shared)]
        own = isinstance(optimizers[0], Stepper)
        for step in range(STEPS):
            draw = torch.Generator().manual_seed(step)
            rows = torch.randn(WORLD * ROWS, 5, generator=draw, dtype=torch.float64) * (20.0 if step in (3, 8) else 1.0)
            for module, part in ((alone, slice(None)), (shared, mine)):
                module.zero_grad()
                module(rows[part]).square().sum(dim=1).mean().backward()
                if own and step == POISONED:
                    poison(module, rank)
            for optimizer in optimizers:
                optimizer.step()
            names = [{p: plain_name(name) for name, p in module.named_parameters()} for module in (alone, shared)]
            for (name, want), got in zip(alone.named_parameters(), shared.parameters(), strict=True):
                torch.testing.assert_close(
                    whole(got),
                    want.detach(),
                    rtol=1e-8,
                    atol=1e-10,
                    msg=lambda text, at=(label, step, name): f"{at}: {text}",
                )
            if step == HALF:
                saved = [optimizer_tensors(*pair) for pair in zip(optimizers, names, strict=True)]
                assert saved[0].keys() == saved[1].keys(), label
                for key, value in saved[0].items():
                    torch.testing.assert_close(saved[1][key], value, rtol=1e-8, atol=1e-10, msg=f"{label} {key}")
                optimizers = [make(spec, module) for module in (alone, shared)]
                for optimizer, named, tensors in zip(optimizers, names, reversed(saved), strict=True):
                    load_optimizer_tensors(optimizer, named, tensors)
