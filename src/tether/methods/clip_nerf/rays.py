"""Rays of a view that are marched through a field: coarsely, and once more where something was met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from tether.core.cameras import ball_span
from tether.core.ranges import Count, Positive, Whole, checked
from tether.methods.clip_nerf.field import Codes, ConditionalField
from tether.methods.clip_nerf.volume import Rendered, sample_pdf, volume_render

_ANNEAL, _EVERY, _LEAST, _MOST = 0.0025 * 3, 1_000, 0.5, 0.9
"""How the least size of a patch shrinks, how often, and its limits."""


@checked
@dataclass(frozen=True, slots=True)
class March:
    """Where a field is asked along a ray.

    Attributes:
        radius: of the ball around the origin that holds the scene; the field's own units are multiples of it.
        samples: in the ball, evenly spaced, of the coarse pass.
        importance: further ones of a fine pass, where the coarse one met something; 0 for none.
    """

    radius: Positive = 1.0
    samples: Annotated[int, Ge(1), Le(4096)] = 24
    importance: Annotated[int, Ge(0), Le(4096)] = 0


@dataclass(frozen=True, slots=True)
class RaysSeen:
    """What rays see, of each pass; a ray past the ball sees white.

    Attributes:
        rgb: in 0 to 1, of the last pass.
        acc: how much of the ray is stopped.
        depth: as of ``volume_render``, in lengths of the ray's direction.
        coarse: ``rgb`` of the first pass where there were two, else None.
    """

    rgb: Float[Tensor, "*rays 3"]
    acc: Float[Tensor, "*rays"]
    depth: Float[Tensor, "*rays"]
    coarse: Float[Tensor, "*rays 3"] | None = None


def march_rays(
    field: ConditionalField,
    codes: Codes,
    begin: Float[Tensor, "*rays 3"],
    way: Float[Tensor, "*rays 3"],
    march: March,
    *,
    fine: ConditionalField | None = None,
    generator: torch.Generator | None = None,
) -> RaysSeen:
    """Look along rays.

    Args:
        field: that is asked.
        codes: one of each kind, or one of each ray, (*rays, c).
        begin: of the rays.
        way: their directions, of any length above 0.
        march: where to ask.
        fine: asked in the fine pass; None asks ``field`` again.
        generator: moves each sample within its stretch, and draws those of the fine pass; None takes middles and even
            shares.

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import Codes, ConditionalField, March, march_rays
        >>> field, codes = ConditionalField(4, 2), Codes(torch.zeros(4), torch.zeros(2))
        >>> begin, way = torch.tensor([[0.0, 0, 4], [0, 9, 4]]), torch.tensor([[0.0, 0, -1], [0, 0, -1]])
        >>> seen = march_rays(field, codes, begin, way, March(samples=8))
        >>> seen.rgb[1].tolist(), bool(seen.acc[0] > 0.5), seen.acc[1].item()
        ([1.0, 1.0, 1.0], True, 0.0)
    """
    near, far = ball_span(begin.detach(), way.detach(), march.radius)
    hit = far > near
    count = int(hit.sum())
    rgb, acc = torch.ones_like(begin), torch.zeros_like(begin[..., 0])
    if not count:
        # Multiplied into the result, so that a loss of empty rays still follows the field.
        idle = 0 * field.rgb.bias.sum()
        return RaysSeen(rgb + idle, acc + idle, acc.clone(), rgb + idle if march.importance else None)
    own = Codes(*(code[hit] if code.ndim > 1 else code for code in (codes.shape, codes.appearance)))
    begin, way, near, far = begin[hit], way[hit], near[hit], far[hit]
    edges = torch.linspace(0, 1, march.samples + 1, dtype=near.dtype, device=near.device)
    inside = torch.full((count, march.samples), 0.5)
    if generator is not None:
        inside = torch.rand((count, march.samples), generator=generator)
    share = edges[:-1] + inside.to(near) / march.samples
    z = near[:, None] + (far - near)[:, None] * share
    seen = first = _asked(field, own, begin, way, z, march)
    if march.importance:
        middles = (z[:, 1:] + z[:, :-1]) / 2
        even = generator is None
        more = sample_pdf(middles, seen.weights[:, 1:-1].detach(), march.importance, det=even, generator=generator)
        z = torch.cat([z, more], dim=1).sort(dim=1).values
        seen = _asked(fine or field, own, begin, way, z, march)
    place = hit.nonzero(as_tuple=True)
    return RaysSeen(
        rgb.index_put(place, seen.rgb),
        acc.index_put(place, seen.acc),
        torch.zeros_like(acc).index_put(place, seen.depth),
        rgb.index_put(place, first.rgb) if march.importance else None,
    )


def _asked(field: ConditionalField, codes: Codes, begin: Tensor, way: Tensor, z: Tensor, march: March) -> Rendered:
    places = (begin[:, None] + way[:, None] * z[..., None]) / march.radius
    spread = Codes(*(code[:, None] if code.ndim > 1 else code for code in (codes.shape, codes.appearance)))
    return volume_render(field(places, way[:, None], spread), z, way)


@checked
def patch_grid(n: Count, iteration: Whole, *, generator: torch.Generator) -> Float[Tensor, "n n 2"]:
    """Where a patch lies in a view: a square of random size and place, as ``grid_sample`` takes it.

    Its side is drawn from m to 1, where m falls from 0.9 to 0.5 over the iterations, and its middle so that it stays in
    the view. The last axis has x, which the second axis of the grid moves along, and then y.

    Args:
        n: places along a side.
        iteration: number of the step.
        generator: of the draws, on the CPU.

    Source: ``get_select_inds`` of run_nerf_clip.py in cassiePython/CLIPNeRF, value for value.

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import patch_grid
        >>> grid = patch_grid(4, 0, generator=torch.Generator().manual_seed(0))
        >>> grid.shape, bool((grid[0, :, 1] == grid[0, 0, 1]).all()), bool(grid[0, 0, 0] < grid[0, 1, 0])
        (torch.Size([4, 4, 2]), True, True)
    """
    least = min(_MOST, max(_LEAST, math.exp(-_ANNEAL * (iteration // _EVERY))))
    scale = torch.empty(1).uniform_(least, 1.0, generator=generator)
    room = 1 - scale.item()

    def shift() -> Tensor:
        far = torch.empty(1).uniform_(0, room, generator=generator)
        return far * (torch.randint(2, (1,), generator=generator).float() - 0.5) * 2

    along = torch.linspace(-1, 1, n)
    y, x = torch.meshgrid(along, along, indexing="ij")
    x, y = x * scale + shift(), y * scale + shift()
    return torch.stack([x, y], dim=-1)
