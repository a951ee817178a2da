"""A map made coarse again by a learnt kernel, for training what made it fine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, checked


class SimpleDownsampler(nn.Module):
    """One kernel for all channels and places, positive and of sum 1.

    Attributes:
        kernel: (k, k), taken through a softplus; zeros at first, which is a mean.
    """

    @checked
    def __init__(self, *, kernel: Count = 9) -> None:
        """Args: kernel: side of the kernel in places, odd."""
        super().__init__()
        self.side = _odd(kernel)
        self.kernel = nn.Parameter(torch.zeros(kernel, kernel))

    def forward(
        self, maps: Float[Tensor, "b c R S"], *, size: tuple[int, int], uniform: Tensor | None = None
    ) -> Float[Tensor, "b c r s"]:
        """Maps of a size that divides theirs; beyond the map are zeros. ``uniform`` is not used."""
        weights = F.softplus(self.kernel)
        weights = (weights / weights.sum()).to(maps.dtype)
        found = F.conv2d(
            maps.flatten(0, 1)[:, None], weights[None, None], stride=_stride(maps, size), padding=self.side // 2
        )
        return found[:, 0].unflatten(0, maps.shape[:2])


class AttentionDownsampler(nn.Module):
    """A kernel for each place, by what stands there.

    Features are blurred a little. Each output place has a logit for each place of its window, by a strided convolution;
    some logits are exchanged for zeros, a learnt one is added to each, and their softmax weighs the blurred features.

    Source: FeatSharp (arXiv 2502.16025), released code, without its spectral reparametrisation. There logits are
    dropped at test time, too; here that is the caller's.

    Attributes:
        attn_kernel: (k * k, c, k, k) of the convolution.
        kernel_bias: (k * k,) of it.
        logit_bias: (1, k * k, 1, 1) that is added after the drop.
        blur_kernel: (1, 1, 5, 5), fixed.
    """

    blur_kernel: Tensor

    @checked
    def __init__(
        self,
        channels: Count,
        *,
        kernel: Count = 9,
        drop: Decay = 0.2,
        std: Decay = 0.01,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the convolution.

        Args:
            channels: of the maps.
            kernel: side of the window in places, odd.
            drop: share of the logits that are exchanged for zeros where ``uniform`` is given.
            std: standard deviation of the draw.
            generator: of it, on the CPU.
        """
        super().__init__()
        self.side, self.drop = _odd(kernel), drop
        count = kernel**2
        self.attn_kernel = nn.Parameter(std * torch.randn(count, channels, kernel, kernel, generator=generator))
        self.kernel_bias = nn.Parameter(torch.zeros(count))
        self.logit_bias = nn.Parameter(torch.zeros(1, count, 1, 1))
        line = torch.exp(-(torch.arange(-2.0, 3.0, dtype=torch.float64) ** 2) / 0.5**0.5)
        square = line[:, None] * line
        self.register_buffer("blur_kernel", (square / square.sum()).float()[None, None])

    def forward(
        self, maps: Float[Tensor, "b c R S"], *, size: tuple[int, int], uniform: Float[Tensor, "b k r s"] | None = None
    ) -> Float[Tensor, "b c r s"]:
        """Maps of a size that divides theirs; beyond the map are zeros.

        Args:
            maps: fine ones.
            size: rows and columns to come.
            uniform: a number of 0 to 1 for each logit, which is dropped where it is at most ``drop``; None drops none.

        Raises:
            InputError: a size that does not divide the maps', or other numbers of logits.
        """
        stride, pad = _stride(maps, size), self.side // 2
        blurred = F.conv2d(maps.flatten(0, 1)[:, None], self.blur_kernel.to(maps.dtype), padding=2)
        blurred = blurred[:, 0].unflatten(0, maps.shape[:2])
        logits = F.conv2d(blurred, self.attn_kernel, self.kernel_bias, stride=stride, padding=pad)
        if uniform is not None:
            if uniform.shape != logits.shape:
                raise InputError(f"uniform: expected {tuple(logits.shape)}, got {tuple(uniform.shape)}")
            logits = logits * (uniform > self.drop)
        weights = (logits + self.logit_bias).softmax(dim=1)
        windows = F.unfold(blurred, self.side, stride=stride, padding=pad)
        windows = windows.unflatten(1, (maps.shape[1], -1)).unflatten(3, tuple(size))
        return torch.einsum("bckrs,bkrs->bcrs", windows, weights)


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise InputError(f"kernel: expected an odd side, got {kernel}")
    return kernel


def _stride(maps: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = maps.shape[2:]
    if rows % size[0] or columns % size[1]:
        raise InputError(f"size: expected a divisor of {rows} x {columns}, got {size[0]} x {size[1]}")
    return rows // size[0], columns // size[1]
