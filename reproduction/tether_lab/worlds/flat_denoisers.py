"""Small networks for a denoiser that see an image as one vector, at a tenth of the cost of convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = 3
WAVES = 32


class FlatDenoiser(nn.Module):
    """Layers over the whole noised image, the step and the embedding; what it adds to the image depends on the step.

    It is called as ``methods.un2clip.denoising_net.DenoisingNet`` is.
    """

    def __init__(self, shape: tuple[int, ...], *, cond_dim: int, width: int) -> None:
        """Draw the weights from torch's generator; the last layers start at zero.

        Args:
            shape: of the images.
            cond_dim: of the embeddings.
            width: of the layers.
        """
        super().__init__()
        size = math.prod(shape)
        self.first, self.seen = nn.Linear(size, width), nn.Linear(cond_dim, width)
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(BLOCKS))
        self.norm, self.last, self.keep = nn.LayerNorm(width), nn.Linear(width, size), nn.Linear(width, 1)
        for layer in (self.last, self.keep):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """What the denoiser is asked for."""
        time = self.time(_waves(t))
        y = self.first(x.flatten(1)) + time + self.seen(cond)
        for block in self.blocks:
            y = block(y)
        return self.last(F.silu(self.norm(y))).view_as(x) + self.keep(F.silu(time))[:, :, None, None] * x


class FlatDecoder(nn.Module):
    """The same layers over the embedding alone: told neither image nor step, it draws what it was told of."""

    def __init__(self, shape: tuple[int, ...], *, cond_dim: int, width: int) -> None:
        """Draw the weights; see ``FlatDenoiser``."""
        super().__init__()
        self.seen = nn.Linear(cond_dim, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(BLOCKS))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, math.prod(shape))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """What the denoiser is asked for."""
        y = self.seen(cond)
        for block in self.blocks:
            y = block(y)
        return self.last(F.silu(self.norm(y))).view_as(x)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.silu(self.one(self.norm(x))))


def _waves(t: Tensor) -> Tensor:
    speed = torch.exp(-math.log(10_000) * torch.arange(WAVES, device=t.device) / WAVES)
    angle = t[:, None].float() * speed
    return torch.cat([angle.cos(), angle.sin()], dim=1)
