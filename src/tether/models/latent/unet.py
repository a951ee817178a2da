"""A small U-Net of residual blocks: what networks that give an image back are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

_GROUPS = 8
_MIDDLE = 2  # blocks at the smallest size


class ResidualUNet(nn.Module):
    """Residual blocks at each size down, two in the middle, and back; the last layer starts at zero.

    A vector may shift and scale the channels of each block (arXiv 2105.05233, section 3.3). A subclass has
    ``forward``.

    Example:
        >>> import torch
        >>> from tether.models.latent.unet import ResidualUNet
        >>> net = ResidualUNet(3, widths=(8, 16), blocks=1)
        >>> net.across(torch.randn(2, 3, 16, 24)).shape
        torch.Size([2, 3, 16, 24])
    """

    @checked
    def __init__(
        self,
        channels: Count,
        *,
        widths: Annotated[Sequence[Count], MinLen(1)],
        blocks: Count = 2,
        about: Count | None = None,
    ) -> None:
        """Draw the weights from torch's generator.

        Args:
            channels: of the images.
            widths: channels at the full size, at a half of it and so on; multiples of 8.
            blocks: at each size, on the way down and on the way up.
            about: width of the vector that changes the blocks; None has none.
        """
        super().__init__()
        for width in widths:
            if width % _GROUPS:
                raise InputError(f"width: expected a multiple of {_GROUPS}, got {width}")
        now = widths[0]
        self.blocks, left = blocks, [now]
        self.multiple = 2 ** (len(widths) - 1)
        """Divides the sides of the images that the network takes."""
        self.first = nn.Conv2d(channels, now, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for width in (width for width in widths for _ in range(blocks)):
            self.down.append(_Block(now, width, about))
            now = width
            left.append(width)
        self.middle = nn.ModuleList([_Block(now, now, about) for _ in range(_MIDDLE)])
        for width in (width for width in reversed(widths) for _ in range(blocks)):
            self.up.append(_Block(now + left.pop(), width, about))
            now = width
        self.norm = nn.GroupNorm(_GROUPS, now + widths[0])
        self.last = nn.Conv2d(now + widths[0], channels, 3, padding=1)
        for value in self.last.parameters():
            nn.init.zeros_(value)

    def across(
        self, x: Float[Tensor, "b c h w"], about: Float[Tensor, "b a"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Down and back.

        Args:
            x: images of sides that ``multiple`` divides.
            about: the vectors, of a network that has one.
        """
        x = first = self.first(x)
        left = []
        for number, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if number and number % self.blocks == 0 else x, about)
            left.append(x)
        for block in self.middle:
            x = block(x, about)
        for number, block in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2.0) if number and number % self.blocks == 0 else x
            x = block(torch.cat([x, left.pop()], dim=1), about)
        return self.last(F.silu(self.norm(torch.cat([x, first], dim=1))))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, about: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(_GROUPS, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(_GROUPS, after), nn.Conv2d(after, after, 3, padding=1)
        self.about = None if about is None else nn.Linear(about, 2 * after)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, about: Tensor | None) -> Tensor:
        y = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.about is not None:
            assert about is not None  # a network that has a vector is given one
            scale, shift = self.about(F.silu(about))[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(y))
