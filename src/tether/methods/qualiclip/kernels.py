"""Kernels that blur: Gaussian, of a lens out of focus, and of motion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_FINE = 32  # points along a pixel's side, by which a disk's share of the pixel is counted


def gaussian(sigma: float) -> Float[Tensor, " k"]:
    """Of one axis, float64, ``2 ceil(2 sigma) + 1`` long, with the sum 1."""
    return gaussian_of(math.ceil(2 * sigma), sigma=sigma)


def gaussian_of(reach: int, *, sigma: float) -> Float[Tensor, " k"]:
    """The same with so many pixels to each side."""
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    values = torch.exp(-(place**2) / (2 * sigma**2))
    return values / values.sum()


def disk(radius: float) -> Float[Tensor, "k k"]:
    """The share of each pixel that lies in a circle around the middle one, float64, with the sum 1."""
    if radius <= 0.5:  # within the middle one
        return torch.ones(1, 1, dtype=torch.float64)
    reach = math.ceil(radius - 0.5)
    fine = (torch.arange((2 * reach + 1) * _FINE, dtype=torch.float64) + 0.5) / _FINE - reach - 0.5
    inside = (fine[:, None] ** 2 + fine**2 <= radius**2).double()
    share = F.avg_pool2d(inside[None], _FINE)[0]
    return share / share.sum()


def official_disk(radius: float) -> Float[Tensor, "k k"]:
    """The released code's: MATLAB's formula of these shares with two of its square roots mistaken."""
    reach = math.ceil(radius)
    away = torch.arange(-reach, reach + 1, dtype=torch.float64).abs()
    far, near = torch.maximum(away[:, None], away), torch.minimum(away[:, None], away)
    square = radius**2
    low = torch.where(square < (far + 0.5) ** 2 + (near - 0.5) ** 2, near - 0.5, 0)
    root = (square - (near - 0.5) ** 2).clamp(min=0).sqrt()
    high = torch.where(square > (far - 0.5) ** 2 + (near + 0.5) ** 2, near + 0.5, root)
    start, end = ((part / radius).clamp(-1, 1).asin() for part in (low, high))
    area = square * (0.5 * (end - start) + 0.25 * ((2 * end).sin() - (2 * start).sin()))
    area = area - (far - 0.5) * (high - low) + (low - near + 0.5)
    crossed = (square < (far + 0.5) ** 2 + (near + 0.5) ** 2) & (square > (far - 0.5) ** 2 + (near - 0.5) ** 2)
    crossed |= (near == 0) & (far - 0.5 < radius) & (far + 0.5 >= radius)
    share = area * crossed + ((far + 0.5) ** 2 + (near + 0.5) ** 2 < square)
    share[reach, reach] = min(math.pi * square, 1.0)
    return share / share.sum()


def motion(length: float, angle: float) -> Float[Tensor, "k l"]:
    """A line of about a pixel's width through the middle, float64, with the sum 1.

    Args:
        length: in pixels, at least 1.
        angle: in degrees, from the horizontal, against the clock.
    """
    length, half = max(1.0, length), (max(1.0, length) - 1) / 2
    cos, sin = math.cos(math.radians(angle % 180)), math.sin(math.radians(angle % 180))
    sign = 1 if cos >= 0 else -1
    wide, high = (int(abs(half * part) + 1 - 1e-12) for part in (cos, sin))
    y = torch.arange(high, -high - 1, -1, dtype=torch.float64)[:, None]  # rows go down, y up
    x = torch.arange(-wide, wide + 1, dtype=torch.float64)
    along, across = x * cos + y * sin, y * cos - x * sin
    past = (torch.hypot(x, y) >= half) & (across.abs() <= 1)
    off = torch.where(past, torch.hypot(across, half - along.abs()), across.abs())
    weights = (1 - off).clamp(min=0) * (sign * x * y >= 0)  # of the quarters, the two that the line crosses
    return weights / weights.sum()


def filtered(image: Float[Tensor, "c h w"], kernel: Float[Tensor, "k l"]) -> Float[Tensor, "c h w"]:
    """Each channel under a kernel of odd sides; the edge's pixels go on beyond it."""
    down, across = kernel.shape
    padded = F.pad(image[None], (across // 2, across // 2, down // 2, down // 2), mode="replicate")[0]
    return F.conv2d(padded[:, None], kernel.to(image)[None, None])[:, 0]


def blurred(image: Float[Tensor, "c h w"], line: Float[Tensor, " k"]) -> Float[Tensor, "c h w"]:
    """Each channel under the same kernel of one axis, along both."""
    return filtered(filtered(image, line[:, None]), line[None])
