"""A small U-Net that takes noise out of images, knowing the step and a vector of what is seen in them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.ranges import Count, checked
from tether.models.latent.unet import ResidualUNet


class DenoisingNet(ResidualUNet):
    """Three sizes of two residual blocks down, two in the middle, and back; the last layer starts at zero.

    Step and vector shift and scale the channels of each block, so a network that looks at neither has to learn to.

    Example:
        >>> import torch
        >>> from tether.methods.un2clip.denoising_net import DenoisingNet
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
        about = 4 * width
        time = nn.Sequential(nn.Linear(width, about), nn.SiLU(), nn.Linear(about, about))
        seen = nn.Sequential(nn.Linear(cond_dim, about), nn.SiLU(), nn.Linear(about, about))
        super().__init__(channels, widths=(width, 2 * width, 2 * width), about=about)
        self.width, self.time, self.seen = width, time, seen

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], cond: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        """What the denoiser is asked for, of images of sides that 4 divides."""
        return self.across(x, self.time(_waves(t, self.width).to(x.dtype)) + self.seen(cond))


def _waves(t: Int[Tensor, " b"], width: int) -> Float[Tensor, "b w"]:
    """Cosines and sines of the step (arXiv 1706.03762, section 3.5)."""
    speed = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None].float() * speed
    return torch.cat([angle.cos(), angle.sin()], dim=1)
