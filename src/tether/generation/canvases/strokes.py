"""A canvas of Bezier strokes: CLIPDraw's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.canvases.stroke_raster import Reach, Samples, render_strokes
from tether.generation.canvases.svg import SvgPath, svg_text

CanvasSide = Annotated[int, Ge(8), Le(2_048)]
Widest = Annotated[float, Ge(1), Le(10_000)]
Curves = tuple[Annotated[int, Ge(1), Le(64)], Annotated[int, Ge(1), Le(64)]]
PUBLISHED_SIDE = 224
"""Pixels that published step sizes are meant for."""
_STEP = 0.1
"""How far a control point starts from the last one at most, twice, as a share of the side."""


def slowing(step: int, steps: int) -> float:
    """How CLIPDraw's points slow down: 0.4 of their rate from half of the steps on, and 0.1 from three quarters."""
    return 1.0 if step < steps // 2 else 0.4 if step < steps * 3 // 4 else 0.1


class StrokeCanvas(Canvas):
    """Coloured strokes on white, each a chain of cubic Bezier curves: the canvas of CLIPDraw (arXiv 2106.14843).

    A stroke starts anywhere, wanders by up to a twentieth of the side from one control point to the next, is one pixel
    to each side wide and of any colour and opacity. Points move by up to a pixel a step on 224 pixels and slow down at
    half and at three quarters of the way, half-widths by 0.1 and colours by 0.01; half-widths stay in 1 to
    ``max_width``, colours in 0 to 1. Which strokes lie above which never changes.

    Differs from the release: rendered by ``render_strokes``, not by diffvg; points move in proportion to the size.

    Attributes:
        counts: (n,) control points of each stroke.
        points: (all, 2) x, y in pixels, stroke after stroke.
        width: (n,) half of the thickness in pixels.
        color: (n, 4) red, green, blue, opacity.

    Example:
        >>> import torch
        >>> from tether.generation.canvases import StrokeCanvas
        >>> canvas = StrokeCanvas(n_strokes=5, size=32, generator=torch.Generator().manual_seed(0))
        >>> canvas.render().shape, canvas.to_svg().count("<path")
        (torch.Size([3, 32, 32]), 5)
    """

    traced: ClassVar[bool] = True
    lines: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        n_strokes: Count = 256,
        size: CanvasSide = 224,
        max_width: Widest = 50.0,
        segments: Curves = (1, 3),
        samples: Samples = 16,
        tau: Positive = 0.5,
        generator: torch.Generator | None = None,
        *,
        reach: Reach | None = None,
    ) -> None:
        """Draw the start.

        Args:
            n_strokes: how many.
            size: side of the image in pixels.
            max_width: greatest half-width in pixels.
            segments: least and greatest number of curves of a stroke, drawn evenly.
            samples: see ``render_strokes``.
            tau: see ``render_strokes``.
            generator: of the start, on the CPU; None takes seed 0.
            reach: see ``render_strokes``.

        Raises:
            InputError: a least number of curves above the greatest.
        """
        super().__init__()
        if segments[0] > segments[1]:
            raise InputError(f"segments: expected the least first, got {segments}")
        draws = generator or torch.Generator().manual_seed(0)
        curves = torch.randint(segments[0], segments[1] + 1, (n_strokes,), generator=draws)
        chains = []
        for many in curves.tolist():
            steps = _STEP * (torch.rand(3 * many, 2, generator=draws) - 0.5)
            chains.append(torch.cat([torch.rand(1, 2, generator=draws), steps]).cumsum(0) * size)
        self._take(torch.cat(chains), 3 * curves + 1, torch.ones(n_strokes), torch.rand(n_strokes, 4, generator=draws))
        self.size, self.max_width, self._samples, self._tau, self._reach = size, max_width, samples, tau, reach
        self.rates = {"points": size / PUBLISHED_SIDE, "width": 0.1, "color": 0.01}

    def _take(self, points: Tensor, counts: Tensor, width: Tensor, color: Tensor) -> None:
        self.counts: Tensor
        self.register_buffer("counts", counts)
        self.points, self.width, self.color = (nn.Parameter(value) for value in (points, width, color))
        self.elements = len(counts)

    @classmethod
    def of(
        cls,
        points: Float[Tensor, "all_points 2"],
        counts: Tensor,
        width: Float[Tensor, " strokes"],
        color: Float[Tensor, "strokes 4"],
        *,
        size: int = 224,
        max_width: float = 50.0,
        samples: int = 16,
        tau: float = 0.5,
        reach: float | None = None,
    ) -> StrokeCanvas:
        """A canvas of given strokes, in the precision that they have; see ``render_strokes``.

        Raises:
            InputError: tensors that do not go together.
        """
        made = cls(n_strokes=1, size=size, max_width=max_width, samples=samples, tau=tau, reach=reach)
        made._take(points.detach().clone(), counts.clone(), width.detach().clone(), color.detach().clone())
        made.render()  # which looks at them
        return made

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {"points": (self.points,), "width": (self.width,), "color": (self.color,)}

    def pace(self, role: str, step: int, steps: int) -> float:
        """See Canvas."""
        return slowing(step, steps) if role == "points" else 1.0

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 size size"]:
        """See Canvas."""
        return render_strokes(
            self.points, self.counts, self.width, self.color,
            size=(self.size, self.size), samples=self._samples, tau=self._tau, reach=self._reach, keep=keep,
        )  # fmt: skip

    @torch.no_grad()
    def clamp_(self) -> None:
        """See Canvas."""
        self.width.clamp_(1.0, self.max_width)
        self.color.clamp_(0.0, 1.0)

    @torch.no_grad()
    def to_svg(self) -> str:
        """See Canvas; ``stroke-width`` is twice the half-width."""
        chains = self.points.split(self.counts.tolist())
        paths = [
            SvgPath([(x, y) for x, y in chain.tolist()], 2 * wide, (red, green, blue), opacity)
            for chain, wide, (red, green, blue, opacity) in zip(
                chains, self.width.tolist(), self.color.tolist(), strict=True
            )
        ]
        return svg_text(paths, width=self.size, height=self.size)
