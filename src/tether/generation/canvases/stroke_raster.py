"""Bezier strokes as pixels, with gradient to points, widths and colours."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked
from tether.generation.canvases.compositing import Level, over

Samples = Annotated[int, Ge(2), Le(256)]
Reach = Annotated[float, Gt(0), Le(math.inf)]
_LEAST = 1e-12
"""Of a squared distance, below which it is taken for this: the root of 0 has no gradient."""
_CHUNK = 65_536
"""Pairs of a segment and a pixel whose distances are in memory at once, for the processor's cache."""


@checked
def render_strokes(
    points: Float[Tensor, "n_points 2"],
    counts: Int[Tensor, " strokes"],
    width: Float[Tensor, " strokes"],
    color: Float[Tensor, "strokes 4"],
    *,
    size: tuple[int, int],
    samples: Samples = 16,
    tau: Positive = 0.5,
    reach: Reach | None = None,
    ground: float = 1.0,
    keep: Bool[Tensor, " strokes"] | None = None,
) -> Float[Tensor, "3 h w"]:
    """Draw strokes over a ground, the first at the bottom.

    A stroke is a chain of cubic Bezier curves, each sampled at evenly spaced parameters and joined by straight edges.
    At distance d from the nearest of them it covers sigmoid((width - d) / tau) of a pixel, times its opacity; ``tau``
    is how soft the edge is. Only the pixels near a stroke are looked at, and of these the gradient goes through the
    nearest edge alone, so that cost follows the area of the strokes: see ``reach``.

    Args:
        points: control points in pixels, x right and y down, all strokes one after the other; a pixel's middle is at
            .5.
        counts: how many of them each stroke has: 3 k + 1 for k curves.
        width: half of the thickness, in pixels. SVG's ``stroke-width`` is twice that.
        color: red, green, blue and opacity, 0 to 1.
        size: rows and columns of the image.
        samples: points of each curve, its ends among them.
        tau: in pixels.
        reach: pixels are left out that are further than ``width + reach * tau`` from the stroke, whose coverage is
            below exp(-reach). None leaves out what rounds to nothing in this precision; ``inf`` nothing.
        ground: brightness of the ground.
        keep: strokes that are drawn; the others are left out.

    Raises:
        InputError: counts that are not 3 k + 1, or tensors that do not go together.

    Source: CLIPDraw (arXiv 2106.14843), which draws with diffvg; this soft coverage is ours. Against a port of diffvg
    with 4 x 4 samples the mean difference is about 0.01.

    Example:
        >>> import torch
        >>> from tether.generation.canvases.stroke_raster import render_strokes
        >>> line = torch.tensor([[0.0, 4.0], [3.0, 4.0], [5.0, 4.0], [8.0, 4.0]])
        >>> black = torch.tensor([[0.0, 0, 0, 1]])
        >>> image = render_strokes(line, torch.tensor([4]), torch.tensor([1.0]), black, size=(8, 8))
        >>> image.shape, bool(image[0, 3, 4] < 0.3), bool(image[0, 0, 4] > 0.99)
        (torch.Size([3, 8, 8]), True, True)
    """
    _check(points, counts, width, color, keep)
    high, wide = size
    found = _near(
        points.detach(), counts, width.detach(), high=high, wide=wide, samples=samples, tau=tau,
        reach=-math.log(torch.finfo(points.dtype).eps) if reach is None else reach, keep=keep,
    )  # fmt: skip
    curve = _curves(points, counts, samples=samples).flatten(0, 1)
    start, end = curve[found.edge], curve[found.edge + 1]
    spot = torch.stack([found.pixel % wide, found.pixel // wide], dim=1).to(points) + 0.5
    away = spot - torch.lerp(start, end, found.along[:, None])
    distance = (away * away).sum(1).clamp(min=_LEAST).sqrt()
    soft = torch.sigmoid((width[found.stroke] - distance) / tau) * color[found.stroke, 3]
    flat = points.new_full((high * wide, 3), ground)
    drawn = over(soft, color[found.stroke, :3], pixel=found.pixel, levels=found.levels, ground=flat)
    return drawn.T.reshape(3, high, wide)


@dataclass(frozen=True, slots=True)
class _Near:
    """Pairs of a stroke and a pixel near it, stroke by stroke: the nearest edge, and how far along it."""

    stroke: Int[Tensor, " m"]
    pixel: Int[Tensor, " m"]
    edge: Int[Tensor, " m"]
    along: Float[Tensor, " m"]
    levels: list[Level]


@torch.no_grad()
def _near(
    points: Tensor,
    counts: Tensor,
    width: Tensor,
    *,
    high: int,
    wide: int,
    samples: int,
    tau: float,
    reach: float,
    keep: Tensor | None,
) -> _Near:
    curve = _curves(points, counts, samples=samples)
    place = points.device
    owner = torch.repeat_interleave(torch.arange(len(counts), device=place), (counts - 1) // 3)
    far_of_stroke = width + reach * tau
    far = far_of_stroke[owner]
    least = torch.floor(curve.amin(1) - far[:, None]).clamp(min=0)
    most = torch.ceil(curve.amax(1) + far[:, None])
    most = torch.minimum(most, most.new_tensor([wide, high]))
    sides = (most - least).clamp(min=0).long()
    if keep is not None:
        sides = sides * keep[owner, None]
    least = least.long()
    segment, column, row = _inside(least, sides)
    squared, edge, along = _nearest(curve, segment, column, row)
    # one box for each stroke; of its curves the nearest counts, pixel by pixel
    curves = (counts - 1) // 3
    rank = torch.arange(len(owner), device=place) - (curves.cumsum(0) - curves)[owner]
    corner = torch.full((len(counts), 2), max(high, wide), device=place)
    beyond = torch.zeros_like(corner)
    for number in range(int(curves.max())):
        some = ((rank == number) & (sides.prod(1) > 0)).nonzero()[:, 0]
        corner[owner[some]] = torch.minimum(corner[owner[some]], least[some])
        beyond[owner[some]] = torch.maximum(beyond[owner[some]], (least + sides)[some])
    boxes = (beyond - corner).clamp(min=0)
    stroke, x, y = _inside(corner, boxes)
    area = boxes.prod(1)
    base = area.cumsum(0) - area - corner[:, 1] * boxes[:, 0] - corner[:, 0]
    spot = base[owner][segment] + row * boxes[owner, 0][segment] + column
    best = squared.new_full((len(stroke),), math.inf)
    best_edge, best_along = torch.zeros_like(stroke), torch.zeros_like(best)
    ranks = rank[segment]
    for number in range(int(curves.max())):
        some = (ranks == number).nonzero()[:, 0]
        at = spot[some]
        nearer = squared[some] < best[at]
        at, some = at[nearer], some[nearer]
        best[at], best_edge[at], best_along[at] = squared[some], edge[some], along[some]
    close = (best <= far_of_stroke[stroke] ** 2).nonzero()[:, 0]
    stroke = stroke[close]
    ends = torch.bincount(stroke, minlength=len(counts)).cumsum(0).tolist()
    levels = [pair for pair in zip([0, *ends[:-1]], ends, strict=True) if pair[0] < pair[1]]
    return _Near(stroke, y[close] * wide + x[close], best_edge[close], best_along[close], levels)


def _inside(corner: Tensor, sides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pixels of boxes: which box, column and row."""
    area = sides[:, 0] * sides[:, 1]
    box = torch.repeat_interleave(torch.arange(len(area), device=area.device), area)
    inner = torch.arange(len(box), device=area.device) - (area.cumsum(0) - area)[box]
    wide = sides[box, 0]
    down = inner // wide
    return box, corner[box, 0] + inner - down * wide, corner[box, 1] + down


def _nearest(curve: Tensor, segment: Tensor, column: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distance to the nearest edge of each pixel's own curve, the edge, and how far along it."""
    samples = curve.shape[1]
    start, step = curve[:, :-1], curve.diff(dim=1)
    length = (step * step).sum(-1)
    inverse = torch.where(length > 0, 1 / length, 0.0)
    table = torch.stack([start[..., 0], start[..., 1], step[..., 0], step[..., 1], inverse]).permute(2, 0, 1)
    squared = curve.new_empty(len(segment))
    along, edge = torch.empty_like(squared), torch.empty_like(segment)
    for first in range(0, len(segment), _CHUNK):
        part = slice(first, first + _CHUNK)
        own = segment[part]
        x, y = column[part].to(curve) + 0.5, row[part].to(curve) + 0.5
        best = torch.full_like(x, math.inf)
        best_along, best_edge = torch.zeros_like(x), torch.zeros_like(own)
        for number, values in enumerate(table):
            from_x, from_y, step_x, step_y, over_length = (value[own] for value in values)
            away_x, away_y = x - from_x, y - from_y
            share = ((away_x * step_x + away_y * step_y) * over_length).clamp_(0, 1)
            away_x -= share * step_x
            away_y -= share * step_y
            away = away_x.mul_(away_x).addcmul_(away_y, away_y)
            nearer = away < best
            best = torch.where(nearer, away, best)
            best_along = torch.where(nearer, share, best_along)
            best_edge.masked_fill_(nearer, number)
        squared[part], along[part], edge[part] = best, best_along, own * samples + best_edge
    return squared, edge, along


def _curves(points: Tensor, counts: Tensor, *, samples: int) -> Float[Tensor, "curves samples 2"]:
    """Points on every curve."""
    weights = torch.from_numpy(_bernstein(samples)).to(points)
    return torch.einsum("sk,ckd->csd", weights, points[_controls(tuple(counts.tolist())).to(points.device)])


@functools.lru_cache(maxsize=16)
def _controls(counts: tuple[int, ...]) -> Int[Tensor, "curves 4"]:
    """Numbers of the control points of every curve."""
    firsts, at = list[int](), 0
    for count in counts:
        firsts += range(at, at + count - 1, 3)
        at += count
    return torch.tensor(firsts)[:, None] + torch.arange(4)


@functools.lru_cache(maxsize=16)
def _bernstein(samples: int) -> Float[np.ndarray, "samples 4"]:
    along = np.linspace(0.0, 1.0, samples)
    back = 1 - along
    return np.stack([back**3, 3 * back**2 * along, 3 * back * along**2, along**3], axis=1)


def _check(points: Tensor, counts: Tensor, width: Tensor, color: Tensor, keep: Tensor | None) -> None:
    if not len(counts) or not bool(((counts >= 4) & (counts % 3 == 1)).all()):
        raise InputError(f"counts: expected at least one stroke, each of 3 k + 1 points, got {counts.tolist()[:20]}")
    strokes, total = len(counts), int(counts.sum())
    wanted = {"points": (total, 2), "width": (strokes,), "color": (strokes, 4), "keep": (strokes,)}
    for (name, shape), found in zip(wanted.items(), (points, width, color, keep), strict=True):
        if found is not None and tuple(found.shape) != shape:
            raise InputError(f"{name}: expected {shape}, got {tuple(found.shape)}")
    if not bool(points.isfinite().all()) or not bool(width.isfinite().all()):
        raise InputError("points, width: expected finite numbers; a step has spoilt them")
