"""A text is more general than its image: the image must lie in the cone that the text spans."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import (
    COSINE_LIMIT,
    GeometryName,
    check_curvature,
    is_hyperbolic,
    lorentz,
)
from tether.core.ranges import NonNegative, checked

_ORIGIN = 16  # smallest normal numbers of the apex's type: nearer to the origin the slope overflows
SAME_POINT = 1e-12
"""Share of a squared Lorentz product below which two points are one: rounding is all that parts them in float64."""


@checked
def entailment(
    general: Float[Tensor, "b d"],
    *,
    specific: Float[Tensor, "b d"],
    geometry: GeometryName,
    min_radius: NonNegative = 0.1,
    curvature: Float[Tensor, ""] | float | None = None,
) -> Float[Tensor, " b"]:
    """How far each specific point lies outside the cone of its general one, in radians; 0 inside.

    The cone opens away from the origin, the wider the nearer its apex is to it, and within ``min_radius`` of the origin
    everything lies inside. With ``min_radius`` 0 there is no cone and the angle itself is given.

    Source: arXiv 2409.13079, section 3, after 1804.01882 and 2304.09172 (MERU). The arc cosine's argument is kept
    ``1e-7`` inside (-1, 1), unlike in the released code. A point at its apex costs 0, and so does any point
    whose apex is the origin.

    Args:
        general: apexes (texts), as points of the geometry; see ``core.geometry.place``.
        specific: what each entails (images).
        geometry: any Euclidean or hyperbolic one; all of a family share the cone.
        min_radius: K, in units of the points.
        curvature: of a hyperbolic geometry.

    Returns:
        (b,) float32 or wider; hyperbolic ones in float64.

    Raises:
        InputError: a geometry without an origin, or unequal shapes.
    """
    check_origin(geometry)
    check_curvature(geometry, curvature)
    if general.ndim != 2 or general.shape != specific.shape:
        shapes = f"{tuple(general.shape)} general and {tuple(specific.shape)} specific"
        raise InputError(f"entailment: expected pairs (b, d), got {shapes}")
    least = torch.float64 if is_hyperbolic(geometry) else torch.float32
    dtype = torch.promote_types(torch.promote_types(general.dtype, specific.dtype), least)
    x, y = general.to(dtype), specific.to(dtype)
    if is_hyperbolic(geometry):
        c = torch.as_tensor(curvature, device=x.device, dtype=dtype)
        top, bottom, ratio = _hyperbolic(x, y, c, min_radius=min_radius)
    else:
        apart = y - x
        top = (apart * x).sum(dim=1)
        square = apart.square().sum(dim=1) * x.square().sum(dim=1)
        bottom, ratio = _root(square), _over(min_radius, _root(x.square().sum(dim=1)))
    at_origin = general.abs().amax(dim=1) < _ORIGIN * torch.finfo(general.dtype).tiny  # where the slope overflows
    proper = (bottom > 0) & ~at_origin
    cosine = top / torch.where(proper, bottom, 1.0)
    angle = torch.where(proper, cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT), COSINE_LIMIT).arccos()
    angle = torch.where(proper, angle, 0.0)
    if min_radius == 0:
        return angle
    narrow = ratio < 1
    aperture = torch.where(narrow, torch.where(narrow, ratio, 0.0).arcsin(), math.pi / 2)
    return (angle - aperture).clamp_min(0)


def _hyperbolic(x: Tensor, y: Tensor, c: Tensor, *, min_radius: float) -> tuple[Tensor, Tensor, Tensor]:
    (space, time), (other, other_time) = lorentz(x, curvature=c), lorentz(y, curvature=c)
    product = c * ((space * other).sum(dim=1) - time * other_time)
    length = _root(space.square().sum(dim=1))
    square = product.square()
    apart = _root(torch.where(square - 1 > SAME_POINT * square, square - 1, 0.0))
    return other_time + time * product, length * apart, _over(2 * min_radius, c.sqrt() * length)


def _root(square: Tensor) -> Tensor:
    """Square root that is 0, with slope 0, at and below 0."""
    above = square > 0
    return torch.where(above, torch.where(above, square, 1.0).sqrt(), 0.0)


def _over(number: float, length: Tensor) -> Tensor:
    """Infinity where that is 1 or more: near a length of 0 the slope of the quotient overflows."""
    above = length > number
    return torch.where(above, number / torch.where(above, length, 1.0), math.inf)


def check_origin(geometry: GeometryName) -> None:
    """See that a geometry has cones."""
    if geometry in ("clip", "elliptic"):
        raise InputError(
            f"entailment: {geometry} has no origin to open away from; use a Euclidean or hyperbolic geometry"
        )
