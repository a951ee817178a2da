"""One Adam step of one tensor by torch's fused kernel, its gradient prepared piece by piece on the way in."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from tether.optim.optimizer_base import Moving, Scalar, pieces

_UNCORRECTED = math.inf
"""A step count at which the kernel's bias corrections are exactly 1."""


def adam_(
    moving: Moving,
    gradients: Iterable[Tensor],
    *,
    lr: Scalar,
    beta1: float,
    beta2: float,
    eps: float,
    step: Scalar | None,
    weight_decay: float = 0.0,
    decay_after: float = 0.0,
    skip: Tensor | None = None,
) -> None:
    """Move one parameter by its state's ``exp_avg`` and ``exp_avg_sq`` (and ``max_exp_avg_sq``, if there is one).

    ``m`` and ``v`` take in the gradient; then ``w -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 -
    beta2^step) + eps)``, or ``w -= lr * m / (sqrt(v) + eps)`` without a step. A half-precision weight is moved in
    float32 and rounded once.

    Args:
        moving: the parameter, its gradient and its state.
        gradients: the prepared gradient, one flat piece after the other as ``pieces`` cuts it, in the moments' dtype.
            A piece is asked for just before it is taken in, so that it may be made from what ``v`` was.
        lr: learning rate; a 0-d tensor if the host does not know it.
        beta1: decay of ``m``.
        beta2: decay of ``v``.
        eps: added to the root.
        step: number of steps that the moments hold, this one counted; None for no bias correction.
        weight_decay: times ``lr``, the share of the weight taken off before the step.
        decay_after: share of the weight taken off after it.
        skip: 0-d bool; nothing is changed where it holds. None = never.
    """
    weight = moving.weight
    flat = weight.view(-1) if weight.is_contiguous() else weight.reshape(-1)
    first, second = moving.local("exp_avg"), moving.local("exp_avg_sq")
    largest = [moving.local("max_exp_avg_sq")] if "max_exp_avg_sq" in moving.state else []
    count = _UNCORRECTED if step is None else step
    count = torch.as_tensor(count, dtype=torch.float32, device=weight.device)
    found = None if skip is None else skip.float()
    rate = lr.float() if isinstance(lr, Tensor) else lr
    after: Scalar = 1.0 - decay_after
    if skip is not None and decay_after:
        after = torch.where(skip, 1.0, after)
    source = iter(gradients)
    for w, m, v, *most in pieces(flat, first, second, *largest):
        wide = w if w.dtype == m.dtype else w.to(m.dtype)
        torch._fused_adamw_(
            [wide],
            [next(source)],
            [m],
            [v],
            most,
            [count],
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=bool(most),
            maximize=False,
            found_inf=found,
        )
        if decay_after:
            wide.mul_(after)
        if wide is not w:
            w.copy_(wide)
    if not weight.is_contiguous():
        weight.copy_(flat.view_as(weight))
