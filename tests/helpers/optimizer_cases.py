"""Every optimiser of ``OPTIMIZERS`` on a small network with given gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tether.core.component import build
from tether.optim import OPTIMIZERS

SETTINGS: dict[str, dict[str, Any]] = {
    "spam": {"reset_interval": 6, "warmup_steps": 2, "accumulate_steps": 2, "threshold": 3.0},
    "stable_spam": {"reset_interval": 5, "total_steps": 30, "amsgrad": True},
    "clip_radagrad_d": {"lr": 0.05, "clip": 0.5},
}
"""So that resets, caps and limits happen within a few steps; the others run as they are."""
OWN = [name for name in OPTIMIZERS if name not in ("adamw", "sgd")]
"""All but torch's own classes. Those are not asked in a step that a clipper, even NoClip, skips; they move complex
parameters, give moments the parameter's dtype, and check of a state only the number of parameters."""
FORMS = {
    "norm": {"name": "clip_radagrad_d", "lr": 0.05},
    "coordinate, element": {"name": "clip_radagrad_d", "mode": "coordinate", "clip_scope": "element", "clip": 0.05},
    "norm, element": {"name": "clip_radagrad_d", "clip_scope": "element", "clip": 0.05, "delayed": False},
    "previous": {"name": "clip_adagrad_d", "direction": "previous", "v0": 0.01},
    "bias correction": {"name": "clip_adam_d", "bias_correction": True, "clip_scope": "global"},
    "clean": {"name": "stable_spam", "reset_mode": "clean", "reset_interval": 4, "inplace_grad": True},
    "trust": {"name": "lamb", "always_adapt": True, "trust_clip": True, "grad_averaging": False, "max_grad_norm": None},
    "never reset": {
        "name": "spam",
        "reset_interval": 0,
        "accumulate_steps": 1,
        "threshold": 2.0,
        "cap_mode": "clean",
        "inplace_grad": True,
    },
}
"""Settings that take another path through a part than its defaults."""


optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
own = pytest.mark.parametrize("name", OWN)
paths = pytest.mark.parametrize("spec", [*OPTIMIZERS, *FORMS])


def make(name: str, params: Any, **more: Any) -> Optimizer:
    spec = FORMS.get(name) or {"name": name, **SETTINGS.get(name, {})}
    return build({**spec, **more}, OPTIMIZERS, where="test", params=params)


class Network(nn.Module):
    """A matrix, a strided kernel, vectors and a scalar."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator).to(dtype))
        kernel = torch.randn(3, 2, 2, 2, generator=generator).to(dtype).to(memory_format=torch.channels_last)
        self.kernel = nn.Parameter(kernel)
        self.bias = nn.Parameter(torch.randn(5, generator=generator).to(dtype))
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=dtype))


def give_gradients(model: nn.Module, step: int, *, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        draw = torch.randn(parameter.shape, generator=generator) * size * (20.0 if step % 7 == 3 else 1.0)
        parameter.grad = torch.empty_like(parameter).copy_(draw)  # in the parameter's layout, as autograd has it


def run(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_equal(left: list[Tensor], right: list[Tensor]) -> None:
    for mine, theirs in zip(left, right, strict=True):
        assert torch.equal(mine, theirs)


def entries(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """A copy of a parameter's state, without the clock, which counts calls whatever the gradients are."""
    return {key: value.clone() for key, value in optimizer.state[parameter].items() if key != "calls"}
