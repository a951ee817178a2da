"""LAMB beside timm's, setting by setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.optim import Lamb

SHAPES = ((5, 4), (4,), (3, 2, 2), ())


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [nn.Parameter(value.to(dtype)) for value in [*drawn, torch.zeros(3, 2)]]  # a norm of 0, too


def groups(found: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    return [{"params": found[::2], "weight_decay": decay}, {"params": found[1::2], "weight_decay": 0.0}]


def path(optimizer: torch.optim.Optimizer, found: list[nn.Parameter], *, steps: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for parameter in found:
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = (draw * 10.0 ** (step % 3 - 1)).to(parameter.dtype)
        if step == 5:
            found[0].grad.zero_()  # pyrefly: ignore
        optimizer.step()
    return [parameter.detach().clone() for parameter in found]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_grad_norm": None},
        {"max_grad_norm": 0.3, "trust_clip": True},
        {"always_adapt": True, "betas": (0.8, 0.95), "eps": 1e-8},
        {"always_adapt": True, "trust_clip": True, "grad_averaging": False},
        {"bias_correction": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_equals_timm(settings: dict[str, Any], decay: float) -> None:
    from timm.optim import Lamb as Peer

    mine, theirs = parameters(), parameters()
    ours = path(Lamb(groups(mine, decay), lr=0.02, **settings), mine)
    for first, second in zip(ours, path(Peer(groups(theirs, decay), lr=0.02, **settings), theirs), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_equals_timm_in_float32_over_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.optim import Lamb as Peer

    from tether.optim import optimizer_base

    monkeypatch.setattr(optimizer_base, "PIECE", 7)
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    ours = path(Lamb(groups(mine, 0.1), lr=0.01), mine)
    for first, second in zip(ours, path(Peer(groups(theirs, 0.1), lr=0.01), theirs), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1e-6}, {"weight_decay": -0.1}, {"max_grad_norm": 0.0}],
    ids=str,
)
def test_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Lamb(parameters(), **settings)
