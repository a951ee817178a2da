"""A convolution whose filters are standardised, so that it keeps the mean and variance of its input."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, Whole, checked


def standardised(weight: Tensor, *, gain: Float[Tensor, " o"], eps: float = 1e-4) -> Tensor:
    """Each filter minus its mean, over ``sqrt(max(N * variance, eps))``, times its gain; N is the fan-in.

    The result has zero mean and, with a gain of one, length one. A constant filter gives zeros. Half precision is
    worked out in float32 and returned in its own precision.

    Args:
        weight: (o, ...) filters, outputs first.
        gain: (o,) of each filter.
        eps: floor of N times the population variance (> 0).

    Source: arXiv 2101.08692, section 4, and the released ``nfnets/base.py`` of arXiv 2102.06171.
    """
    wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    axes = tuple(range(1, weight.ndim))
    variance, mean = torch.var_mean(wide, dim=axes, correction=0, keepdim=True)
    fan_in = math.prod(weight.shape[1:])
    scale = gain.to(wide.dtype).view(-1, *([1] * len(axes))) * (variance * fan_in).clamp(min=eps).rsqrt()
    return ((wide - mean) * scale).to(weight.dtype)


@final
class ScaledStdConv2d(nn.Module):
    """``torch.nn.Conv2d`` with scaled weight standardisation, a gain for each filter and always a bias.

    With ``gamma`` of the activation that follows its input (``GAMMAS``), or with activations that are scaled already
    and ``gamma`` 1, unit variance comes out as unit variance.

    timm's module of this name adds its eps to the variance inside ``batch_norm`` instead of taking a floor of 1e-4, so
    its figures agree only up to that eps, and a filter of tiny weights comes out larger there. This one is the
    release's. ``padding="same"`` pads as JAX and TensorFlow do, unevenly where the stride asks for it.

    Source: arXiv 2102.06171, section 2, equation 1.
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        kernel_size: Count | tuple[Count, Count],
        *,
        stride: Count = 1,
        padding: Whole | Literal["same"] = "same",
        dilation: Count = 1,
        groups: Count = 1,
        gamma: Positive = 1.0,
        eps: Positive = 1e-4,
        gain_init: float = 1.0,
    ) -> None:
        """Draw filters with a deviation of one over the root of the fan-in, from torch's default generator.

        Args:
            in_channels: of the input; a multiple of ``groups``.
            out_channels: of the output; a multiple of ``groups``.
            kernel_size: height and width, or one number for both.
            stride: of the window.
            padding: zeros on every side, or ``same``: the output is the input's size over the stride, rounded up.
            dilation: distance of the kernel's points.
            groups: of channels that do not see each other.
            gamma: multiplies the standardised filters.
            eps: floor of the fan-in times the variance.
            gain_init: the gains at the start.
        """
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if in_channels % groups or out_channels % groups:
            raise InputError(f"groups: expected a divisor of {in_channels} and {out_channels}, got {groups}")
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.gamma, self.eps = float(gamma), float(eps)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, height, width))
        self.gain = nn.Parameter(torch.full((out_channels,), float(gain_init)))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.initialise_()

    @torch.no_grad()
    def initialise_(self, generator: torch.Generator | None = None) -> None:
        """Draw the filters again; their scale hardly matters, for they are standardised."""
        self.weight.normal_(std=self.weight[0].numel() ** -0.5, generator=generator)

    def standardised_weight(self) -> Float[Tensor, "o i h w"]:
        """The filters that are used, with gradient."""
        return standardised(self.weight, gain=self.gain * self.gamma, eps=self.eps)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        """Convolve."""
        padding = self.padding
        if padding == "same":
            x, padding = self._pad(x)
        return F.conv2d(x, self.standardised_weight(), self.bias, self.stride, padding, self.dilation, self.groups)

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What ``same`` asks for: even zeros are left to the convolution, uneven ones put after the last row."""
        totals = [
            max((math.ceil(length / self.stride) - 1) * self.stride + self.dilation * (kernel - 1) + 1 - length, 0)
            for length, kernel in zip(x.shape[2:], self.weight.shape[2:], strict=True)
        ]
        if all(total % 2 == 0 for total in totals):
            return x, (totals[0] // 2, totals[1] // 2)
        down, across = totals
        return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)), (0, 0)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        out_channels, in_channels, height, width = self.weight.shape
        return (
            f"{in_channels * self.groups}, {out_channels}, kernel_size=({height}, {width}), stride={self.stride}, "
            f"padding={self.padding!r}, groups={self.groups}"
        )
