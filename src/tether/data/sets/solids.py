"""Solids in space, drawn exactly from any side: views with poses for radiance fields, and captions for a small CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tether.core.cameras import Lens, camera_rays, orbit_pose
from tether.core.errors import InputError
from tether.core.hash_rng import hash_uniform
from tether.core.ranges import Count, Whole, checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.posed import PosedViews

SolidShape = Literal["sphere", "box", "cylinder", "cone"]
SHAPES: tuple[SolidShape, ...] = get_args(SolidShape)
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.05),
    "yellow": (0.90, 0.85, 0.10),
    "green": (0.15, 0.70, 0.15),
    "cyan": (0.10, 0.75, 0.80),
    "blue": (0.15, 0.25, 0.90),
    "purple": (0.50, 0.10, 0.80),
    "pink": (0.95, 0.30, 0.70),
}
"""Shares of red, green and blue that a surface gives back."""
ANGLE, DISTANCE = 0.54, 4.0
"""Of the camera, in radians; how far from the origin it stands. A ball of radius 1 just fits in."""
SIZES, ELEVATIONS = (0.75, 1.0), (10.0, 45.0)
_BOX, _CYLINDER, _CONE, _SPHERE = (0.85, 0.4, 0.3), (0.38, 0.85), (0.7, 0.65), 0.7
"""Half sides; radius and half height; the same of the cone's base; radius."""
_LIGHT, _AMBIENT = (0.35, 0.85, 0.4), 0.45
_TEMPLATES = ("a {colour} {shape}", "a {shape}", "something {colour}")
_FAR = float("inf")


@dataclass(frozen=True, slots=True)
class Solid:
    """One thing at the origin.

    Attributes:
        shape: one of ``SHAPES``.
        colour: one of ``COLOURS``.
        size: 1 for one that just fits into a ball of radius 1.
    """

    shape: SolidShape
    colour: str
    size: float = 1.0

    @property
    def caption(self) -> str:
        """Such as ``a red cone``."""
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class SolidView:
    """A solid as a camera sees it.

    Attributes:
        pixels: on white.
        mask: where it covers more than half of a pixel.
    """

    pixels: UInt8[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]


def solid_view(solid: Solid, pose: Float[Tensor, "4 4"], lens: Lens, *, fine: int = 3) -> SolidView:
    """Draw a solid by where rays meet it, lit from one side as a matt surface is.

    Args:
        solid: what.
        pose: of the camera, as of ``orbit_pose``; it stands outside the solid.
        lens: of the camera.
        fine: rays of a pixel along each side, whose mean it is.

    Raises:
        InputError: an unknown shape or colour.

    Example:
        >>> from tether.core.cameras import Lens, orbit_pose
        >>> from tether.data.sets.solids import Solid, solid_view
        >>> seen = solid_view(Solid("sphere", "red"), orbit_pose(0, 20), Lens.of_angle(0.54, height=16, width=16))
        >>> seen.pixels.shape, bool(seen.mask[8, 8]), seen.pixels[:, 0, 0].tolist()
        (torch.Size([3, 16, 16]), True, [255, 255, 255])
    """
    if solid.shape not in SHAPES or solid.colour not in COLOURS:
        raise InputError(f"solid: expected one of {', '.join(SHAPES)} in {', '.join(COLOURS)}, got {solid}")
    begin, way = camera_rays(pose.double(), Lens(lens.height * fine, lens.width * fine, lens.focal * fine))
    hit, normal = _met(solid.shape, begin / solid.size, way / solid.size)
    light = torch.tensor(_LIGHT, dtype=torch.float64)
    shade = _AMBIENT + (1 - _AMBIENT) * (normal @ (light / light.norm())).clamp(min=0)
    colour = torch.tensor(COLOURS[solid.colour], dtype=torch.float64) * shade[..., None]
    image = torch.where(hit[..., None], colour, torch.ones((), dtype=torch.float64)).permute(2, 0, 1)

    def pooled(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(values[None], fine)[0]

    return SolidView(pooled(image).mul(255).round().to(torch.uint8), pooled(hit[None].double())[0] > 0.5)


def _met(shape: SolidShape, begin: Tensor, way: Tensor) -> tuple[Tensor, Tensor]:
    """Whether rays meet a solid of size 1, and its unit normals there."""
    if shape == "sphere":
        t = _first_root((way * way).sum(-1), (way * begin).sum(-1), (begin * begin).sum(-1) - _SPHERE**2)
        place = begin + torch.where(t.isfinite(), t, 0.0)[..., None] * way
        return t.isfinite(), place / place.norm(dim=-1, keepdim=True)
    if shape == "box":
        half = torch.tensor(_BOX, dtype=begin.dtype)
        speed = torch.where(way.abs() < 1e-12, 1e-12, way)
        ends = torch.stack([(-half - begin) / speed, (half - begin) / speed])
        near, axis = ends.amin(dim=0).max(dim=-1)
        hit = near < ends.amax(dim=0).amin(dim=-1)
        normal = torch.nn.functional.one_hot(axis, 3).to(begin)
        return hit, -normal * speed.sign()
    radius, half = _CYLINDER if shape == "cylinder" else _CONE
    flat = torch.tensor([1.0, 0.0, 1.0], dtype=begin.dtype)
    a, b, c = ((one * other * flat).sum(-1) for one, other in ((way, way), (way, begin), (begin, begin)))
    if shape == "cylinder":
        a, b, c = a, b, c - radius**2
    else:  # x^2 + z^2 = (slope (half - y))^2
        slope, left = radius / (2 * half), half - begin[..., 1]
        a, b, c = a - (slope * way[..., 1]) ** 2, b + slope**2 * left * way[..., 1], c - (slope * left) ** 2
    found = list[tuple[Tensor, Tensor]]()
    for t in _roots(a, b, c):
        place = begin + torch.where(t.isfinite(), t, 0.0)[..., None] * way
        inside = t.isfinite() & (place[..., 1].abs() <= half)
        outward = place * flat
        if shape == "cone":
            outward = outward + (outward.norm(dim=-1) * radius / (2 * half))[..., None] * (1 - flat)
        found.append((torch.where(inside, t, _FAR), outward))
    for end in (half, -half) if shape == "cylinder" else (-half,):
        t = (end - begin[..., 1]) / torch.where(way[..., 1].abs() < 1e-12, 1e-12, way[..., 1])
        place = begin + t[..., None] * way
        inside = ((place * flat).norm(dim=-1) <= radius) & (t > 0)
        found.append((torch.where(inside, t, _FAR), ((1 - flat) * (1 if end > 0 else -1)).expand_as(place)))
    t, which = torch.stack([t for t, _ in found]).min(dim=0)
    normal = torch.stack([normal for _, normal in found]).gather(0, which[None, ..., None].expand(1, *begin.shape))[0]
    return t.isfinite(), normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t^2 + 2 b t + c, infinite where there are none or they lie behind."""
    inner = b * b - a * c
    root = inner.clamp(min=0).sqrt()
    a = torch.where(a.abs() < 1e-12, 1e-12, a)
    every = ((-b - root) / a, (-b + root) / a)
    first, second = (torch.where((inner >= 0) & (t > 0), t, _FAR) for t in every)
    return first, second


def _first_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.minimum(*_roots(a, b, c))


def solid_named(text: str, size: float = 1.0) -> Solid:
    """By colour and shape, such as ``red cone``, or ``a red cone``."""
    colour, _, shape = text.removeprefix("a ").partition(" ")
    if shape not in SHAPES or colour not in COLOURS:
        raise InputError(f"expected a colour and a shape, such as 'red cone', got {text!r:.80}")
    return Solid(shape, colour, size)


def circle_of_poses(
    count: int, *, generator: torch.Generator, elevations: tuple[float, float] = ELEVATIONS
) -> Float[Tensor, "n 4 4"]:
    """Cameras spread evenly around the origin from a random first one, at random heights within limits in degrees."""
    first, low, high = 360 * float(torch.rand((), generator=generator)), *elevations
    rises = (low + (high - low) * torch.rand(count, generator=generator)).tolist()
    return torch.stack([orbit_pose(first + 360 * at / count, rise, DISTANCE) for at, rise in enumerate(rises)])


def solid_views(
    solids: Sequence[Solid | str], *, poses: int | Float[Tensor, "n 4 4"] = 8, size: int = 32, seed: int = 0
) -> PosedViews:
    """Views of solids, one scene each, for ``methods.clip_nerf``.

    Args:
        solids: or their colours and shapes, ``red cone``, of size 1.
        poses: of the cameras, the same for all; or how many of ``circle_of_poses``.
        size: height and width in pixels.
        seed: of these.

    Example:
        >>> from tether.data.sets.solids import solid_views
        >>> solid_views(["red cone", "blue box"], poses=3, size=16).images.shape
        torch.Size([6, 3, 16, 16])
    """
    if isinstance(poses, int):
        poses = circle_of_poses(poses, generator=torch.Generator().manual_seed(seed))
    every = [solid_named(one) if isinstance(one, str) else one for one in solids]
    lens = Lens.of_angle(ANGLE, height=size, width=size)
    images = torch.stack([solid_view(one, pose, lens).pixels for one in every for pose in poses])
    names = [f"{one.colour} {one.shape}" for one in every]
    unique = tuple(name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names))
    scenes = torch.arange(len(every)).repeat_interleave(len(poses))
    return PosedViews(images, poses.repeat(len(every), 1, 1), lens, scenes, unique)


class SolidsSet(IndexedSource):
    """Views of solids of one colour on white, from a circle of cameras, with captions such as "a red cone".

    Args:
        rows: how many.
        size: height and width in pixels.
        captions: ``one``, with colour and shape; ``several`` adds "a cone" and "something red".
        seed: of what is drawn.

    Attributes:
        solids: of the rows.
        poses: (rows, 4, 4) of the cameras.
        lens: of the cameras.

    Example:
        >>> from tether.data.sets.solids import SolidsSet
        >>> row = SolidsSet(rows=3, size=16).row(0)
        >>> row.texts, row.image.shape
        (('a blue sphere',), (16, 16, 3))
    """

    name = "solids"

    @checked
    def __init__(
        self,
        *,
        rows: Count = 2048,
        size: Annotated[int, Ge(8), Le(512)] = 32,
        captions: Literal["one", "several"] = "one",
        seed: Whole = 0,
    ) -> None:
        """Draw what the rows show; images are drawn when they are asked for."""
        self.version = "1"
        self.lens = Lens.of_angle(ANGLE, height=size, width=size)
        draws = hash_uniform([f"{row} {name}" for row in range(rows) for name in "scdae"], seed=seed, salt="solids")
        self.solids, poses = list[Solid](), list[Tensor]()
        for shape, colour, share, turn, rise in draws.reshape(rows, 5).tolist():
            low, high = SIZES
            which = SHAPES[int(shape * len(SHAPES))], list(COLOURS)[int(colour * len(COLOURS))]
            self.solids.append(Solid(*which, low + (high - low) * share))
            poses.append(orbit_pose(360 * turn, ELEVATIONS[0] + (ELEVATIONS[1] - ELEVATIONS[0]) * rise, DISTANCE))
        self.poses = torch.stack(poses)
        self._templates = _TEMPLATES if captions == "several" else _TEMPLATES[:1]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.solids)

    def row(self, index: int) -> Row:
        """One image."""
        solid = self.solids[index]
        pixels = solid_view(solid, self.poses[index], self.lens).pixels.permute(1, 2, 0).contiguous().numpy()
        meta = {"shape": solid.shape, "colour": solid.colour, "size": solid.size}
        texts = tuple(template.format(colour=solid.colour, shape=solid.shape) for template in self._templates)
        return Row(f"{index:06d}", pixels, texts, meta)
