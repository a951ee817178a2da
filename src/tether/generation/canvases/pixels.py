"""A canvas of free pixels: what drawings are compared with, and images that are edited."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.canvases.strokes import CanvasSide


class PixelCanvas(Canvas):
    """An image whose pixels move as they like, from grey noise: the baseline of every canvas.

    Example:
        >>> from tether.generation.canvases import PixelCanvas
        >>> PixelCanvas(size=32).render().shape
        torch.Size([3, 32, 32])
    """

    @checked
    def __init__(
        self, *, size: CanvasSide = 224, noise: NonNegative = 0.05, generator: torch.Generator | None = None
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

    @classmethod
    def of(cls, image: Float[Tensor, ...]) -> PixelCanvas:
        """A canvas that starts as images.

        Args:
            image: (3, h, w) or (b, 3, h, w) in 0 to 1.

        Raises:
            InputError: another shape, or values beyond.
        """
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or not bool(((image >= 0) & (image <= 1)).all()):
            raise InputError(f"image: expected (3, h, w) or (b, 3, h, w) in 0 to 1, got {tuple(image.shape)}")
        made = cls(size=8)
        made.pixels = nn.Parameter(image.detach().clone())
        return made

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {"pixels": (self.pixels,)}

    def render(self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None) -> Float[Tensor, ...]:
        """See Canvas."""
        return self.pixels

    @torch.no_grad()
    def clamp_(self) -> None:
        """See Canvas."""
        self.pixels.clamp_(0.0, 1.0)
