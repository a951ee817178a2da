"""Descent of unit vectors on the sphere, with a pull toward where they began."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from tether.core.errors import InputError
from tether.core.ranges import Decay, NonNegative, PositiveSingle, Rate, checked

_OFF = 1e-4
"""How far from 1 a row's length may be before it is told."""


def tangent(
    gradient: Float[Tensor, "n d"], at: Float[Tensor, "n d"], *, eps: float = 1e-6
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n 1"]]:
    """Gradients without what points along their unit rows, at length 1, and the squared length that they had.

    Args:
        gradient: Euclidean.
        at: unit rows.
        eps: least length that is divided by.
    """
    flat = gradient - (gradient * at).sum(-1, keepdim=True) * at
    square = flat.square().sum(-1, keepdim=True)
    return flat / square.sqrt().clamp(min=eps), square


class SphericalSGD(Optimizer):
    """Moves each row of its parameters along the sphere by ``lr`` radians, nearly, whatever the loss's scale.

    The gradient gets ``-kappa * target``, the von Mises-Fisher prior's; it is then laid on the tangent plane, divided
    by the root of the mean of its squared lengths, and the row is moved and brought back to length 1. There is no
    weight decay. Only the ratio of ``kappa`` to the data's gradient counts, so unscale gradients before the step.

    Source: DTI (arXiv 2512.13672, section 4; kunheek/dti, optim.py).

    Example:
        >>> import torch
        >>> from tether.methods.dti.optimizer import SphericalSGD
        >>> v = torch.nn.Parameter(torch.tensor([[1.0, 0.0, 0.0]]))
        >>> optimizer = SphericalSGD([v], lr=0.1)
        >>> v.grad = torch.tensor([[5.0, 0.0, 3.0]])
        >>> optimizer.step()
        >>> [round(value, 3) for value in v[0].tolist()]  # what points along the row moves nothing
        [0.995, 0.0, -0.1]
    """

    @checked
    def __init__(
        self,
        params: Any,
        lr: Rate = 0.01,
        kappa: NonNegative = 0.0,
        target: Float[Tensor, "n d"] | None = None,
        beta: Decay = 0.0,
        eps: PositiveSingle = 1e-8,
        target_ids: Sequence[int] | Tensor | None = None,
    ) -> None:
        """Take parameters (n, d) of unit rows; others are brought to length 1, with a warning.

        Args:
            params: parameters, or groups of them with settings of their own.
            lr: length of a step in radians, nearly.
            kappa: strength of the pull toward ``target``.
            target: (n, d) unit rows, one for each row of a parameter; None pulls nothing.
            beta: weight of the past in the mean of squared lengths; 0 makes every step of length ``lr``.
            eps: added to the root that is divided by.
            target_ids: rows that are pulled, with all between the first and the last; None for all.

        Raises:
            InputError: a setting out of range, parameters that are no rows, a row of length 0, or a target or rows of
                it that do not fit.
        """
        if target_ids is not None:
            if not len(target_ids):
                raise InputError("target_ids: expected at least one row, got none")
            target_ids = (int(min(target_ids)), int(max(target_ids)))
        defaults = {"lr": lr, "kappa": kappa, "target": target, "beta": beta, "eps": eps, "target_ids": target_ids}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                self._check(parameter, group)

    @staticmethod
    def _check(parameter: Tensor, group: dict[str, Any]) -> None:
        shape, target, ids = tuple(parameter.shape), group["target"], group["target_ids"]
        if parameter.ndim != 2:
            raise InputError(f"params: expected rows (n, d), got {shape}")
        if parameter.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"params: expected float32 or float64, in which rows keep their length, got {parameter.dtype}"
            )
        if target is not None and tuple(target.shape) != shape:
            raise InputError(f"target: expected {shape}, as the parameter, got {tuple(target.shape)}")
        if ids is not None and not 0 <= ids[0] <= ids[1] < len(parameter):
            raise InputError(f"target_ids: expected first and last of {len(parameter)} rows, got {tuple(ids)}")
        lengths = torch.linalg.vector_norm(parameter.detach(), dim=-1)
        if not bool((lengths > 0).all()):
            raise InputError(f"params: expected rows with a direction, got length 0 in row {int(lengths.argmin())}")
        if bool(((lengths - 1).abs() > _OFF).any()):
            warnings.warn("SphericalSGD: rows that are not of length 1 are brought to it", stacklevel=4)
            with torch.no_grad():
                parameter /= lengths[:, None]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyrefly: ignore
        """Take a step; a row whose gradient is zero on the tangent plane stays."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move_(parameter, parameter.grad, group)
        return loss

    def _move_(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, beta = self.state[parameter], group["beta"]
        if not state:
            state["step"] = 0
            state["square"] = torch.zeros(len(parameter), 1, dtype=parameter.dtype, device=parameter.device)
        target, ids = group["target"], group["target_ids"]
        if target is not None and group["kappa"]:
            pull = group["kappa"] * target.to(parameter)
            if ids is not None:
                rows = torch.arange(len(parameter), device=parameter.device)[:, None]
                pull = pull * ((rows >= ids[0]) & (rows <= ids[1]))
            gradient = gradient - pull
        flat = gradient - (gradient * parameter).sum(-1, keepdim=True) * parameter
        state["step"] += 1
        state["square"].mul_(beta).add_(flat.square().sum(-1, keepdim=True), alpha=1 - beta)
        mean = state["square"] / (1 - beta ** state["step"])
        parameter -= group["lr"] * flat / (mean.sqrt() + group["eps"])
        parameter /= torch.linalg.vector_norm(parameter, dim=-1, keepdim=True)
