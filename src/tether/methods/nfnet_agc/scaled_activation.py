"""Activations times a constant, so that a standard normal input leaves with variance one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from tether.models.towers.blocks.layers import pick

GAMMAS: Mapping[str, float] = {
    "identity": 1.0,
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "glu": 1.8484294414520264,
    "leaky_relu": 1.70590341091156,
    "log_sigmoid": 1.9193484783172607,
    "log_softmax": 1.0002083778381348,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "soft_sign": 2.338853120803833,
    "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}
"""One over the deviation of each activation of a standard normal: the constants released with arXiv 2102.06171
(``nfnets/base.py``). They are estimates from samples and differ from the exact values in the third digit."""

_POINTWISE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "celu": F.celu,
    "elu": F.elu,
    "gelu": partial(F.gelu, approximate="tanh"),
    "leaky_relu": F.leaky_relu,
    "log_sigmoid": F.logsigmoid,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": F.sigmoid,
    "silu": F.silu,
    "soft_sign": F.softsign,
    "softplus": F.softplus,
    "tanh": F.tanh,
}


@final
class ScaledActivation(nn.Module):
    """An activation times its constant in ``GAMMAS``; gelu is the tanh approximation, as released.

    Source: arXiv 2102.06171, section 2, and arXiv 2101.08692, section 3.
    """

    def __init__(self, name: str, *, dim: int = 1) -> None:
        """Take the activation.

        Args:
            name: a key of ``GAMMAS``. Those without a ceiling train best: relu, gelu, silu.
            dim: the axis of channels, for ``glu`` (which halves it) and ``log_softmax``; the others ignore it.
        """
        super().__init__()
        self.name, self.dim, self.gamma = name, dim, pick(name, GAMMAS, option="activation")

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape; ``glu`` halves the axis of channels."""
        if self.name == "identity":
            return x
        if self.name == "glu":
            return F.glu(x, dim=self.dim) * self.gamma
        if self.name == "log_softmax":
            return F.log_softmax(x, dim=self.dim) * self.gamma
        return _POINTWISE[self.name](x) * self.gamma

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        return f"{self.name!r}, gamma={self.gamma:.4f}"
