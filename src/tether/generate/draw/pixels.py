"""A canvas of free pixels: what drawings are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.ranges import NonNegative, checked
from tether.generate.draw.canvas import FRONT, Canvas, Viewpoint
from tether.generate.draw.strokes import Side


class PixelCanvas(Canvas):
    """An image whose pixels move as they like, from grey noise: the baseline of every canvas.

    Example:
        >>> from tether.generate.draw import PixelCanvas
        >>> PixelCanvas(size=32).render().shape
        torch.Size([3, 32, 32])
    """

    @checked
    def __init__(
        self, *, size: Side = 224, noise: NonNegative = 0.05, generator: torch.Generator | None = None
    ) -> None:
        """Draw the start.

        Args:
            size: side in pixels.
            noise: standard deviation around a middle grey.
            generator: of the noise, on the CPU; None takes seed 0.
        """
        super().__init__()
        draws = generator or torch.Generator().manual_seed(0)
        self.pixels = nn.Parameter((0.5 + noise * torch.randn(3, size, size, generator=draws)).clamp(0, 1))
        self.rates = {"pixels": 0.02}

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {"pixels": (self.pixels,)}

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 size size"]:
        """See Canvas."""
        return self.pixels

    @torch.no_grad()
    def clamp_(self) -> None:
        """See Canvas."""
        self.pixels.clamp_(0.0, 1.0)
