"""A small U-Net that takes noise out of images, knowing the step and a vector of what is seen in them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

_GROUPS = 8
_BLOCKS = 2  # of each size


class DenoisingNet(nn.Module):
    """Three sizes of two residual blocks down, two in the middle, and back; the last layer starts at zero.

    Step and vector shift and scale the channels of each block (arXiv 2105.05233, section 3.3), so a network that
    looks at neither has to learn to.

    Example:
        >>> import torch
        >>> from tether.models.denoising_net import DenoisingNet
        >>> net = DenoisingNet(3, cond_dim=16, width=16)
        >>> net(torch.randn(2, 3, 32, 32), torch.tensor([0, 999]), torch.randn(2, 16)).shape
        torch.Size([2, 3, 32, 32])
    """

    @checked
    def __init__(self, channels: Count, *, cond_dim: Count, width: Count = 56) -> None:
        """Draw the weights from torch's generator.

        Args:
            channels: of the images.
            cond_dim: of the vector.
            width: channels at the full size, twice as many at a half and a quarter of it; a multiple of 8.
        """
        super().__init__()
        if width % _GROUPS:
            raise InputError(f"width: expected a multiple of {_GROUPS}, got {width}")
        self.width, about = width, 4 * width
        self.time = nn.Sequential(nn.Linear(width, about), nn.SiLU(), nn.Linear(about, about))
        self.seen = nn.Sequential(nn.Linear(cond_dim, about), nn.SiLU(), nn.Linear(about, about))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        sizes, now, left = (width, 2 * width, 2 * width), width, [width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for size in (size for size in sizes for _ in range(_BLOCKS)):
            self.down.append(_Block(now, size, about))
            now = size
            left.append(size)
        self.middle = nn.ModuleList([_Block(now, now, about) for _ in range(_BLOCKS)])
        for size in (size for size in reversed(sizes) for _ in range(_BLOCKS)):
            self.up.append(_Block(now + left.pop(), size, about))
            now = size
        self.norm, self.last = nn.GroupNorm(_GROUPS, now + width), nn.Conv2d(now + width, channels, 3, padding=1)
        for value in self.last.parameters():
            nn.init.zeros_(value)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], cond: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        """What the denoiser is asked for, of images of sides that 4 divides."""
        about = self.time(_waves(t, self.width).to(x.dtype)) + self.seen(cond)
        x = first = self.first(x)
        left = []
        for number, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if number and number % _BLOCKS == 0 else x, about)
            left.append(x)
        for block in self.middle:
            x = block(x, about)
        for number, block in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2.0) if number and number % _BLOCKS == 0 else x
            x = block(torch.cat([x, left.pop()], dim=1), about)
        return self.last(F.silu(self.norm(torch.cat([x, first], dim=1))))


class _Block(nn.Module):
    def __init__(self, before: int, after: int, about: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(_GROUPS, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(_GROUPS, after), nn.Conv2d(after, after, 3, padding=1)
        self.about = nn.Linear(about, 2 * after)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, about: Tensor) -> Tensor:
        scale, shift = self.about(F.silu(about))[:, :, None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))


def _waves(t: Int[Tensor, " b"], width: int) -> Float[Tensor, "b w"]:
    """Cosines and sines of the step (arXiv 1706.03762, section 3.5)."""
    speed = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None].float() * speed
    return torch.cat([angle.cos(), angle.sin()], dim=1)
