"""An image looked at twice: whole, and in enlarged tiles whose maps are put together."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

Encode = Callable[[Tensor], Float[Tensor, "b c r s"]]
"""Images at a model's size to their maps."""


class NotSquareWarning(UserWarning):
    """An image's shape is not the model's, so it is squashed."""


@checked
def create_tiles(
    images: Tensor, encode: Encode, *, size: tuple[Count, Count], factor: Count
) -> tuple[Float[Tensor, "b c r s"], Float[Tensor, "b c R S"]]:
    """The map of the whole image, and that of ``factor`` x ``factor`` tiles of it, which has as many times its sides.

    It costs ``factor ** 2 + 1`` times the encoding. Images are brought to ``factor`` times the model's size, between
    pixels linearly (bilinear, without antialiasing, as in the released code).

    Source: FeatSharp (arXiv 2502.16025), released code.

    Args:
        images: (b, 3, h, w) of any size, uint8 pixels or floats; those of another shape are squashed, with a warning.
        encode: see ``Encode``.
        size: height and width that it takes.
        factor: tiles along a side.

    Raises:
        InputError: no images, or maps that are none.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(f"images: expected (b, 3, h, w), got {tuple(images.shape)}")
    height, width = images.shape[2:]
    if height * size[1] != width * size[0]:
        warnings.warn(
            f"images of {width} x {height} pixels are squashed to the shape of {size[1]} x {size[0]}",
            NotSquareWarning,
            stacklevel=2,
        )
    low = _map(encode(_at(images, size)), len(images))
    if factor == 1:
        return low, low
    large = _at(images, (size[0] * factor, size[1] * factor))
    cut = large.unfold(2, size[0], size[0]).unfold(3, size[1], size[1])  # b, 3, rows, columns, height, width
    found = _map(encode(cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)), len(images) * factor**2)
    channels, rows, columns = found.shape[1:]
    apart = found.view(len(images), factor, factor, channels, rows, columns).permute(0, 3, 1, 4, 2, 5)
    return low, apart.reshape(len(images), channels, factor * rows, factor * columns)


def _at(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[2:]) == tuple(size):
        return images
    if images.is_floating_point():
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
    return resized.round().clamp(0, 255).to(images.dtype)


def _map(found: Tensor, count: int) -> Tensor:
    if found.ndim != 4 or len(found) != count:
        raise InputError(f"encode: expected maps ({count}, c, r, s), got {tuple(found.shape)}")
    return found


class BiasBuffer(torch.nn.Module):
    """A learnt map that is added to every map: what a model says of a place whatever stands there, taken away again.

    Attributes:
        bias: (1, c, r, s), zeros at first.
    """

    def __init__(self, channels: int, *, grid: tuple[int, int]) -> None:
        """Args: channels: of the maps. grid: rows and columns of most of them."""
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1, channels, *grid))

    def forward(self, maps: Float[Tensor, "b c r s"]) -> Float[Tensor, "b c r s"]:
        """The maps with the bias, resized bilinearly to theirs."""
        size = (maps.shape[2], maps.shape[3])
        bias = self.bias
        if tuple(bias.shape[2:]) != size:
            bias = F.interpolate(bias, size, mode="bilinear", align_corners=False)
        return maps + bias.to(maps.dtype)
