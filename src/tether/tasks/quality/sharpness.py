"""A measure of sharpness without a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError


def sharpness(image: UInt8[Tensor, "3 h w"]) -> float:
    """The variance of the Laplacian of the grey image, from 0 for one colour up.

    What every sharpness check begins with: blur lowers it, noise raises it. It compares images of one kind and size.

    Args:
        image: in its own pixels.

    Raises:
        InputError: not uint8 (3, h, w).

    Example:
        >>> import torch
        >>> from tether.tasks.quality import sharpness
        >>> sharpness(torch.full((3, 8, 8), 90, dtype=torch.uint8))
        0.0
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise InputError(f"image: expected uint8 pixels (3, h, w), got {image.dtype} {tuple(image.shape)}")
    red, green, blue = image.float()
    grey = (
        0.299 * red + 0.587 * green + 0.114 * blue
    ).round()  # whole numbers, as files have them: one colour is exactly 0
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    sides = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return float((sides - 4 * grey).double().var(correction=0))
