"""Strokes in space as rows of soft blobs seen by a camera, with gradient to places, widths and colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked
from tether.generation.canvases.compositing import levels_of, over

_FEWEST, _MOST = 2, 15
"""Blobs of an edge."""
_WIDEST = 10**6
_NEAREST, _EPS = 0.05, 1e-4
"""Least depth of a blob that is drawn, and what is added to depths."""


@dataclass(frozen=True, slots=True)
class Camera:
    """Where somebody stands and what they look at; up is the second axis.

    Attributes:
        position: x, y, z.
        target: x, y, z.
    """

    position: tuple[float | int, float | int, float | int]
    target: tuple[float | int, float | int, float | int] = (0.0, 0.0, 0.0)

    @property
    def angle(self) -> float:
        """Direction around the vertical axis from the target, 0 to 2 pi."""
        return math.atan2(self.position[2] - self.target[2], self.position[0] - self.target[0]) % (2 * math.pi)


@checked
def render_blobs(
    places: Float[Tensor, "strokes knots 3"],
    width: Float[Tensor, "strokes knots"],
    color: Float[Tensor, "strokes knots 4"],
    *,
    camera: Camera,
    size: int,
    density: Positive = 2.0,
    ground: float = 1.0,
) -> Float[Tensor, "3 s s"]:
    """Draw strokes in space, far ones first, as somebody at ``camera`` sees them.

    Between two knots of a stroke lie 2 to 15 blobs, more the longer and thinner the edge looks; place, width and colour
    change evenly along it. A blob at distance r covers opacity * exp(-(r / w)^4) of a pixel, in a square of
    2 int(2 w) + 2 pixels around it whose corner is held at 0. What is seen at depth z is ``size / (z + 1e-4)`` times as
    large as in space; what is nearer than 0.05 is left out.

    Args:
        places: of the knots, x, y, z.
        width: of the blobs at the knots, in space.
        color: red, green, blue and opacity at the knots, 0 to 1.
        camera: where it is seen from.
        size: of the square image, in pixels.
        density: of blobs.
        ground: brightness behind all.

    Raises:
        InputError: tensors that do not go together, or a camera that looks straight up or down.

    Source: ``CLIPDraw_3DStrokes.ipynb`` of kvfrans/clipdraw (CLIPDraw, arXiv 2106.14843), value for value. Blobs of
    equal depth lie in the order of the strokes here, in no certain order there.

    Example:
        >>> import torch
        >>> from tether.generation.canvases.blob_raster import Camera, render_blobs
        >>> line = torch.tensor([[[0.0, -0.3, 0.0], [0.0, 0.3, 0.0]]])
        >>> black = torch.tensor([0.0, 0, 0, 1]).expand(1, 2, 4)
        >>> image = render_blobs(line, torch.full((1, 2), 0.1), black, camera=Camera((3.0, 0.0, 0.0)), size=32)
        >>> image.shape, bool(image[0, 16, 16] < 0.1), bool(image[0, 16, 0] > 0.99)
        (torch.Size([3, 32, 32]), True, True)
    """
    _check(places, width, color)
    seen, depth = _seen(places, camera, size)
    scaled = size * width / (_EPS + depth)
    blobs = _blobs(seen.detach(), scaled.detach(), density)
    knot, share = blobs[:, :2], blobs[:, 2].to(places)

    def along(value: Tensor) -> Tensor:
        flat = value.flatten(0, 1)
        first, second = (flat[knot[:, end].long()] for end in (0, 1))
        weight = share.view(-1, *[1] * (flat.ndim - 1))
        return first * (1 - weight) + second * weight

    middle, thick, shown, far = along(seen), along(scaled), along(color), along(depth).detach()
    order = torch.argsort(far, descending=True, stable=True)
    order = order[far[order] > _NEAREST]
    middle, thick, shown = middle[order], thick[order], shown[order]
    blob, row, column = _windows(middle.detach(), thick.detach(), size)
    above, levels = levels_of(row * size + column)
    blob, row, column = blob[above], row[above], column[above]
    spot = torch.stack([row, column], dim=1).to(places)
    squared = ((spot - middle[blob]) ** 2).sum(1) / thick[blob] ** 2
    cover = shown[blob, 3] * torch.exp(-(squared**2))
    flat = places.new_full((size * size, 3), ground)
    drawn = over(cover, shown[blob, :3], pixel=row * size + column, levels=levels, ground=flat)
    return drawn.T.reshape(3, size, size)


def _seen(places: Tensor, camera: Camera, size: int) -> tuple[Float[Tensor, "s k 2"], Float[Tensor, "s k"]]:
    """Row and column of every knot in pixels, and how deep it lies."""
    position, target = (places.new_tensor(spot) for spot in (camera.position, camera.target))
    ahead = F.normalize(target - position, dim=0)
    right = torch.linalg.cross(ahead, places.new_tensor([0.0, 1.0, 0.0]))
    down = torch.linalg.cross(ahead, right)
    if not float(right.norm()) > 0:
        raise InputError(f"camera: expected one that does not look straight up or down, got {camera}")
    away = places - position
    depth = away @ ahead
    spot = torch.stack([away @ down, away @ right], dim=-1)
    return size * spot / (_EPS + depth)[..., None] + size // 2, depth


@torch.no_grad()
def _blobs(seen: Tensor, scaled: Tensor, density: float) -> Float[Tensor, "blobs 3"]:
    """Numbers of the two knots that each blob lies between, and its share of the way; stroke by stroke."""
    length = seen.diff(dim=1).norm(dim=-1)
    mean = (scaled[:, 1:] + scaled[:, :-1]) * 0.5
    wanted = (density * length / (1 + mean)).nan_to_num(posinf=_MOST, neginf=0.0).clamp(-_MOST, _MOST)
    many = (wanted.trunc().long() + 1).clamp(_FEWEST, _MOST).flatten()
    place = many.device
    edge = torch.repeat_interleave(torch.arange(len(many), device=place), many)
    number = torch.arange(len(edge), device=place) - (many.cumsum(0) - many)[edge]
    knots = seen.shape[1]
    first = edge // (knots - 1) * knots + edge % (knots - 1)
    share = number.double() / (many[edge] - 1)
    return torch.stack([first.double(), first.double() + 1, share], dim=1)


@torch.no_grad()
def _windows(middle: Tensor, thick: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of the square around each blob: which blob, row and column, blob by blob."""
    side = 2 * (2 * thick).trunc().clamp(max=_WIDEST).long() + 2
    corner = (middle - (side // 2)[:, None]).trunc().clamp(min=0, max=size).long()
    sides = torch.minimum(side[:, None], size - corner)
    area = sides.prod(1)
    blob = torch.repeat_interleave(torch.arange(len(area), device=area.device), area)
    inner = torch.arange(len(blob), device=area.device) - (area.cumsum(0) - area)[blob]
    row = inner // sides[blob, 1]
    return blob, corner[blob, 0] + row, corner[blob, 1] + inner - row * sides[blob, 1]


def _check(places: Tensor, width: Tensor, color: Tensor) -> None:
    if places.ndim != 3 or places.shape[-1] != 3 or places.shape[0] < 1 or places.shape[1] < 2:
        raise InputError(f"places: expected (strokes, knots, 3) with two knots or more, got {tuple(places.shape)}")
    wanted: Sequence[tuple[str, Tensor, tuple[int, ...]]] = (
        ("width", width, tuple(places.shape[:2])),
        ("color", color, (*places.shape[:2], 4)),
    )
    for name, found, shape in wanted:
        if tuple(found.shape) != shape:
            raise InputError(f"{name}: expected {shape}, got {tuple(found.shape)}")
    if not all(bool(found.isfinite().all()) for found in (places, width, color)):
        raise InputError("places, width, color: expected finite numbers; a step has spoilt them")
