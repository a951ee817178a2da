"""A canvas of strokes in space, drawn as blobs: CLIPDraw's second one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.generation.canvases.blob_raster import Camera, render_blobs
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.canvases.strokes import CanvasSide

_DISTANCE, _HEIGHT, _WANDER = 3.0, 0.2, 0.3
"""Of cameras from the middle, of their height at most before that, and of a knot from the last one at most."""
_THIN, _THICK = (0.02, 0.5), (0.02, 0.1)
"""Limits of a width, and least and how much more of it at the start."""
_SLOWER, _SLOW_FROM = 0.2, 0.4
"""What all rates are multiplied by, and from which share of the steps: 200 of 500."""


def camera_at(direction: tuple[float, float, float]) -> Camera:
    """A camera at the distance 3 in a direction from the middle, which it looks at."""
    length = math.sqrt(sum(value * value for value in direction))
    x, y, z = (_DISTANCE * value / length for value in direction)
    return Camera((x, y, z))


FACE = camera_at((1.0, 0.1, 0.0))
"""Where the fixed look of every step is from."""


class BlobCanvas3D(Canvas):
    """Strokes in space, rows of soft blobs, seen from several sides (the 3-D notebook of CLIPDraw, arXiv 2106.14843).

    Each stroke has ``knots`` places in a cube from -1 to 1 with width and colour of their own. A step looks from
    ``cameras`` directions, the last one fixed and the others drawn anew, and their gradients add up. With several
    prompts each is asked for on its own part of the circle. A canvas with one camera is a flat drawing of blobs.

    Attributes:
        places: (n, knots, 3) x, y up, z.
        width: (n, knots) of the blobs.
        color: (n, knots, 4) red, green, blue, opacity.

    Example:
        >>> import torch
        >>> from tether.methods.clipdraw import BlobCanvas3D
        >>> canvas = BlobCanvas3D(n_strokes=5, size=32, generator=torch.Generator().manual_seed(0))
        >>> canvas.render().shape, len(canvas.looks(0, torch.Generator()))
        (torch.Size([3, 32, 32]), 4)
    """

    traced: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        *,
        n_strokes: Count = 200,
        size: CanvasSide = 224,
        knots: Annotated[int, Ge(2), Le(64)] = 4,
        cameras: Annotated[int, Ge(1), Le(64)] = 4,
        around: Literal["circle", "front"] = "circle",
        density: Positive = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the start.

        Args:
            n_strokes: how many.
            size: side of the image in pixels.
            knots: places of a stroke.
            cameras: looks of a step.
            around: ``circle`` draws cameras all around; ``front`` has the fixed one alone, once a step.
            density: see ``render_blobs``.
            generator: of the start, on the CPU; None takes seed 0.
        """
        super().__init__()
        draws = generator or torch.Generator().manual_seed(0)
        start = 2 * torch.rand(n_strokes, 1, 3, generator=draws) - 1
        steps = _WANDER * (2 * torch.rand(n_strokes, knots - 1, 3, generator=draws) - 1)
        width = _THICK[1] * torch.rand(n_strokes, 1, generator=draws) + _THICK[0]
        color = torch.rand(n_strokes, 1, 4, generator=draws)
        self.places = nn.Parameter(torch.cat([start, steps], dim=1).cumsum(1))
        self.width = nn.Parameter(width.repeat(1, knots))
        self.color = nn.Parameter(color.repeat(1, knots, 1))
        self.size, self._density = size, density
        self._cameras = cameras if around == "circle" else 1
        self.elements = n_strokes
        self.rates = {"points": 0.05, "width": 0.02, "color": 0.1}

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {"points": (self.places,), "width": (self.width,), "color": (self.color,)}

    def pace(self, role: str, step: int, steps: int) -> float:
        """See Canvas."""
        return 1.0 if step < _SLOW_FROM * steps else _SLOWER

    def looks(self, step: int, draws: torch.Generator) -> Sequence[Viewpoint]:
        """See Canvas."""
        found = list[Viewpoint]()
        for _ in range(self._cameras - 1):
            x, z = torch.randn(2, generator=draws).tolist()
            found.append(look_from(camera_at((x, _HEIGHT * float(torch.rand((), generator=draws)), z))))
        return [*found, look_from(FACE)]

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 size size"]:
        """See Canvas; a look without a camera is from the front."""
        shown = (self.places, self.width, self.color)
        places, width, color = shown if keep is None else (value[keep] for value in shown)
        if not len(places):
            raise InputError("keep: expected at least one stroke, got none")
        return render_blobs(places, width, color, camera=look.camera or FACE, size=self.size, density=self._density)

    @torch.no_grad()
    def clamp_(self) -> None:
        """See Canvas."""
        self.width.clamp_(*_THIN)
        self.color.clamp_(0.0, 1.0)
        self.places.clamp_(-1.0, 1.0)


def look_from(camera: Camera) -> Viewpoint:
    """A look with the part of the circle that the camera stands on."""
    return Viewpoint(camera, camera.angle / (2 * math.pi))
