"""A canvas whose parameters are those of a small network that gives one image back, restyled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Rate, Whole, checked
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.models.latent.unet import ResidualUNet

_EDGE = 0.02
"""How far from black and white a pixel is held before its logit is taken."""
_FIRST = 0.02
"""Standard deviation of the last layer's first weights: with none, the image would have moved in no direction."""


class StyleNetCanvas(Canvas):
    """One image through a U-Net and a sigmoid; the network is what moves, at half the rate every 100 steps.

    CLIPStyler (arXiv 2112.00374) makes the image from nothing. With ``residual``, our default, the network changes the
    logits of the image's pixels and starts near no change, so that few steps are enough.

    Example:
        >>> import torch
        >>> from tether.generation.edit import StyleNetCanvas
        >>> image = torch.rand(3, 20, 30)
        >>> StyleNetCanvas(image, widths=(8, 16)).render().shape
        torch.Size([3, 20, 30])
    """

    image: Tensor

    @checked
    def __init__(
        self,
        image: Float[Tensor, "3 h w"],
        *,
        widths: tuple[Count, ...] = (16, 32, 64),
        blocks: Count = 1,
        residual: bool = True,
        rate: Rate = 5e-4,
        halve_every: Count = 100,
        seed: Whole = 0,
    ) -> None:
        """Draw the network.

        Args:
            image: in 0 to 1, which does not move.
            widths: channels at the full size, at a half of it and so on; multiples of 8.
            blocks: at each size, each way.
            residual: whether the network changes the image, or makes it from nothing.
            rate: Adam's.
            halve_every: steps after which the rate is halved, again and again.
            seed: of the weights.

        Raises:
            InputError: no image of three finite channels.
        """
        super().__init__()
        if image.ndim != 3 or len(image) != 3 or not bool(((image >= 0) & (image <= 1)).all()):
            raise InputError(f"image: expected (3, h, w) in 0 to 1, got {tuple(image.shape)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = ResidualUNet(3, widths=widths, blocks=blocks)
            nn.init.normal_(self.net.last.weight, std=_FIRST)
        self.register_buffer("image", image.detach().clone())
        self.rates = {"network": rate}
        self._residual, self._halve = residual, halve_every

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {"network": tuple(self.net.parameters())}

    def render(self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None) -> Float[Tensor, ...]:
        """See Canvas."""
        high, wide = self.image.shape[1:]
        below, right = -high % self.net.multiple, -wide % self.net.multiple
        seen = F.pad(self.image[None] * 2 - 1, (0, right, 0, below), mode="replicate")
        changed = self.net.across(seen)[0, :, :high, :wide]
        if self._residual:
            changed = changed + torch.logit(self.image.clamp(_EDGE, 1 - _EDGE))
        return changed.sigmoid()

    def pace(self, role: str, step: int, steps: int) -> float:
        """See Canvas."""
        return 0.5 ** (step // self._halve)
