"""Cameras as matrices from the camera to the world, and the rays of their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Number, Positive, checked


@checked
@dataclass(frozen=True, slots=True)
class Lens:
    """What a camera takes in.

    Attributes:
        height: pixels.
        width: pixels.
        focal: distance of the image, in pixels.
    """

    height: Annotated[int, Ge(1), Le(16_384)]
    width: Annotated[int, Ge(1), Le(16_384)]
    focal: Positive

    @classmethod
    def of_angle(cls, angle: float, *, height: int, width: int) -> Lens:
        """By the angle in radians between the left and the right edge."""
        if not 0 < angle < math.pi:
            raise InputError(f"angle: expected radians between 0 and pi, got {angle}")
        return cls(height, width, width / (2 * math.tan(angle / 2)))

    def scaled(self, height: int) -> Lens:
        """The same view in an image of another height."""
        share = height / self.height
        return Lens(height, max(1, round(self.width * share)), self.focal * share)


@checked
def orbit_pose(
    azimuth: Number, elevation: Annotated[float, Gt(-90), Lt(90)], distance: Positive = 4.0
) -> Float[Tensor, "4 4"]:
    """A camera that looks at the origin, y being up.

    Args:
        azimuth: degrees around the vertical axis; at 0 it stands on z.
        elevation: degrees above the ground.
        distance: from the origin.

    Returns:
        (4, 4) float32 from the camera's axes (right, up, back) to the world's, as in files ``transforms.json``.

    Example:
        >>> from tether.core.cameras import orbit_pose
        >>> orbit_pose(0, 0, 4)[:3, 3].tolist()
        [0.0, 0.0, 4.0]
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    back = torch.tensor([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)], dtype=torch.float64)
    right = torch.tensor([math.cos(a), 0.0, -math.sin(a)], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)
    pose[:3, 3] = distance * back
    return pose.float()


def camera_rays(pose: Float[Tensor, "4 4"], lens: Lens) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"]]:
    """Where the rays of the middles of all pixels begin, and where they go; not of length 1, but of depth 1.

    Args:
        pose: from the camera (right, up, back) to the world; it gets a gradient.
        lens: of the camera.

    Example:
        >>> import torch
        >>> from tether.core.cameras import Lens, camera_rays
        >>> begin, way = camera_rays(torch.eye(4), Lens(2, 2, 1.0))
        >>> way[0, 0].tolist()
        [-0.5, 0.5, -1.0]
    """
    if pose.shape != (4, 4):
        raise InputError(f"pose: expected (4, 4), got {tuple(pose.shape)}")
    rows, columns = (torch.arange(side, device=pose.device) for side in (lens.height, lens.width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    way = pixel_ways(x, y, lens, pose.dtype) @ pose[:3, :3].T
    return pose[:3, 3].expand_as(way), way


def pixel_ways(
    x: Int[Tensor, "*n"], y: Int[Tensor, "*n"], lens: Lens, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*n 3"]:
    """Directions of the middles of pixels in the camera's own axes, of depth 1; x goes right, y down, from 0."""
    right, down = ((value + 0.5 - side / 2) / lens.focal for value, side in ((x, lens.width), (y, lens.height)))
    return torch.stack([right, -down, -torch.ones_like(right)], dim=-1).to(dtype)


def ball_span(
    begin: Float[Tensor, "*rays 3"], way: Float[Tensor, "*rays 3"], radius: float
) -> tuple[Float[Tensor, "*rays"], Float[Tensor, "*rays"]]:
    """First and last multiple of ``way`` inside a ball around the origin, at least 0; equal where a ray misses it."""
    a, b, c = (way * way).sum(-1), (way * begin).sum(-1), (begin * begin).sum(-1) - radius * radius
    half = (b * b - a * c).clamp(min=0).sqrt()
    near, far = ((-b - half) / a).clamp(min=0), ((-b + half) / a).clamp(min=0)
    return near, far
