"""How far the edges of two images differ, at several scales: what a repaired image is compared by."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked
from tether.methods.clap.padding import mirrored

CONSTANT = 0.0026
"""Keeps two flat places alike, of images from 0 to 1."""
_TINY = 1e-12  # under the root, whose slope is infinite at 0


def gradient_magnitude(grey: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """How steep an image is at each pixel, by Prewitt's filters over 3, with zeros around the image.

    Args:
        grey: images of one channel.

    Example:
        >>> import torch
        >>> from tether.methods.clap.msgms import gradient_magnitude
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> gradient_magnitude(step)[0, 0, 1].tolist()[:3]
        [9.999999974752427e-07, 1.0, 1.0]
    """
    if grey.ndim != 4 or grey.shape[1] != 1:
        raise InputError(f"grey: expected (b, 1, h, w), got {tuple(grey.shape)}")
    across = grey.new_tensor([[1.0, 0.0, -1.0]]).expand(3, 3) / 3
    found = F.conv2d(grey, torch.stack([across, across.T])[:, None], padding=1)
    return (found.square().sum(dim=1, keepdim=True) + _TINY).sqrt()


@checked
def msgms(
    x: Float[Tensor, "b c h w"],
    y: Float[Tensor, "b c h w"],
    *,
    scales: Annotated[int, Ge(1), Le(10)] = 4,
    c: Positive = CONSTANT,
) -> Float[Tensor, "b 1 h w"]:
    """One minus the likeness of the gradients of two images at each pixel, the mean over scales, with gradient.

    It sees edges alone: a stain of another colour without an edge costs nothing, so a squared error belongs beside it.

    Source: multi-scale gradient magnitude similarity of RIAD, as CLAP takes it (arXiv 2411.07546). Channels are
    averaged; sides that ``2 ** (scales - 1)`` does not divide are mirrored and the map is cut.

    Args:
        x: images from 0 to 1.
        y: what they are compared with.
        scales: how often, less one, sides are halved by the mean of 2 x 2 pixels.
        c: constant above 0 of the likeness.

    Returns:
        0 for equal images, less than 1 elsewhere; its mean is the loss.

    Raises:
        InputError: shapes that differ or are no images.

    Example:
        >>> import torch
        >>> from tether.methods.clap.msgms import msgms
        >>> image = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
        >>> msgms(image, image).abs().max().item() < 1e-6, msgms(image, image.flip(3)).shape
        (True, torch.Size([2, 1, 20, 30]))
    """
    if x.ndim != 4 or x.shape != y.shape or 0 in x.shape[1:]:
        raise InputError(f"expected two (b, c, h, w) of one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    one, other = (mirrored(side, multiple=2 ** (scales - 1)).mean(dim=1, keepdim=True) for side in (x, y))
    size, total = one.shape[2:], torch.zeros_like(one)
    for scale in range(scales):
        if scale:
            one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
        left, right = gradient_magnitude(one), gradient_magnitude(other)
        alike = (2 * left * right + c) / (left.square() + right.square() + c)
        total = total + F.interpolate(alike, (size[0], size[1]), mode="bilinear")
    return (1 - total / scales)[:, :, : x.shape[2], : x.shape[3]]
