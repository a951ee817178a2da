"""How alike two embeddings are: the cosine, and seven other geometries that a model may have (arXiv 2409.13079).

Every similarity here depends on the dot product and the two squared lengths alone, so one function serves pairs, blocks
and whole matrices, and retrieval, zero-shot and losses all ask the same one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError
from tether.core.runtime_protocol import ByAttributes

GeometryName = Literal[
    "clip",
    "elliptic",
    "euclidean",
    "euclidean-inner",
    "euclidean-squared",
    "hyperbolic",
    "hyperbolic-inner",
    "hyperbolic-squared",
]
GEOMETRIES: tuple[GeometryName, ...] = get_args(GeometryName)

COSINE_LIMIT = 1 - 1e-7
"""Cosines are kept within this of 0 before an arc cosine, whose slope is infinite at 1."""
ROOT_EPS = 1e-12
"""Added under the root of a squared distance, whose slope is infinite at 0."""
ARCOSH_EPS = 1e-12
"""How far above 1 the argument of the inverse hyperbolic cosine stays, in float64."""
_TINY = 1e-30  # under the root of a squared length in float64: keeps the slope at the origin 0 instead of 0 / 0


def is_hyperbolic(geometry: GeometryName) -> bool:
    """Whether it has a curvature."""
    return geometry.startswith("hyperbolic")


def check_geometry(geometry: str) -> None:
    """See that a geometry is known.

    Raises:
        InputError: otherwise; it lists those that are.
    """
    if geometry not in GEOMETRIES:
        raise InputError(f"geometry: unknown geometry {geometry!r}; known: {', '.join(GEOMETRIES)}")


def check_curvature(geometry: GeometryName, curvature: Tensor | float | None) -> None:
    """See that a hyperbolic geometry, and no other, has a positive curvature; on an accelerator only that it has one.

    Raises:
        InputError: otherwise.
    """
    if not is_hyperbolic(geometry):
        if curvature is not None:
            raise InputError(f"curvature: {geometry} has none, expected None")
        return
    if curvature is None:
        raise InputError(f"curvature: {geometry} needs one, expected a number above 0, got None")
    if isinstance(curvature, Tensor):
        value = float(curvature.detach()) if curvature.device.type == "cpu" else math.nan
    else:
        value = float(curvature)
    if value <= 0 or math.isinf(value):
        raise InputError(f"curvature: expected a finite number above 0, got {value}")


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a model's embeddings are compared with.

    Attributes:
        name: one of ``GEOMETRIES``.
        curvature: of a hyperbolic space, above 0, possibly with gradient; None for all others.
    """

    name: GeometryName = "clip"
    curvature: Float[Tensor, ""] | float | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown name, and a hyperbolic space without a curvature."""
        check_geometry(self.name)
        check_curvature(self.name, self.curvature)

    @property
    def unit(self) -> bool:
        """Whether only the direction of an embedding counts (``clip`` and ``elliptic``)."""
        return self.name in ("clip", "elliptic")

    @property
    def never_positive(self) -> bool:
        """Whether similarities are distances with a minus sign, or Lorentz products, which are never above 0."""
        return self.name not in ("clip", "euclidean-inner")

    def detached(self) -> Geometry:
        """The same without gradient, on the CPU."""
        curvature = self.curvature
        return Geometry(self.name, curvature.detach().cpu()) if isinstance(curvature, Tensor) else self

    def points(self, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """A model's pooled embeddings as what is compared: of length 1 where only the direction counts."""
        return F.normalize(pooled, dim=-1) if self.unit else pooled

    def similarity(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """``pairwise_similarity`` of points."""
        return pairwise_similarity(x, y, geometry=self.name, curvature=self.curvature)

    def paired(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Similarity of each point with the one in the same row."""
        x, y = _wide(x, y, hyperbolic=is_hyperbolic(self.name))
        values = _compare((x * y).sum(dim=-1), _square(x), _square(y), self.name, self.curvature)
        return values.to(torch.promote_types(torch.float32, x.dtype))


COSINE = Geometry()
"""CLIP's own, and that of every model that says nothing else."""


@runtime_checkable
class HasGeometry(Protocol, metaclass=ByAttributes):
    """A model that says how its embeddings are compared."""

    @property
    def geometry(self) -> Geometry:
        """The geometry, with the curvature of the moment."""
        ...


@runtime_checkable
class Wraps(Protocol, metaclass=ByAttributes):
    """An encoder around another one, such as one that changes its tokens."""

    model: object


def geometry_of(model: object) -> Geometry:
    """A model's geometry, or that of the model it wraps; the cosine for one that says nothing."""
    while not isinstance(model, HasGeometry):
        if not isinstance(model, Wraps):
            return COSINE
        model = model.model
    return model.geometry


def pairwise_similarity(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    geometry: GeometryName,
    curvature: Float[Tensor, ""] | float | None = None,
) -> Float[Tensor, "n m"]:
    """Similarity of every row of one side with every row of the other; higher is more alike.

    ============================ =========================================================================
    ``clip``                     x.y
    ``elliptic``                 -arccos(x.y)
    ``euclidean``                -|x - y|
    ``euclidean-inner``          x.y
    ``euclidean-squared``        -|x - y|^2, that of EuCLIP
    ``hyperbolic``               -arccosh(-c q) / sqrt(c)
    ``hyperbolic-inner``         q, the Lorentz product of the points that ``x`` and ``y`` stand for
    ``hyperbolic-squared``       -arccosh(-c q)^2 / c
    ============================ =========================================================================

    Source: arXiv 2409.13079, section 3. Two things differ from the released code: cosines are kept ``1e-7`` inside
    (-1, 1) before an arc cosine, and roots and arccosh stay off the points where their slope is infinite.

    Args:
        x: points as ``place`` or a model gives them: of length 1 for ``clip`` and ``elliptic``.
        y: points.
        geometry: one of ``GEOMETRIES``.
        curvature: c > 0, for hyperbolic geometries only.

    Returns:
        (n, m) in float32 or wider. Hyperbolic ones are computed and given in float64.

    Raises:
        InputError: an unknown geometry, a curvature that is missing or not positive, or rows that do not fit.
    """
    check_geometry(geometry)
    check_curvature(geometry, curvature)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(f"expected rows (n, d) and (m, d) of one width, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = _wide(x, y, hyperbolic=is_hyperbolic(geometry))
    with torch.autocast(x.device.type, enabled=False):
        return _compare(x @ y.T, _square(x)[:, None], _square(y)[None, :], geometry, curvature)


def factors(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    geometry: GeometryName,
    curvature: Float[Tensor, ""] | float | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "m k"]] | None:
    """Rows whose dot products are the similarities, so that they need not be made at once; None where there are none.

    The inner products have them, and so has the squared Euclidean distance: two more columns hold the lengths.
    """
    check_geometry(geometry)
    check_curvature(geometry, curvature)
    x, y = _wide(x, y, hyperbolic=is_hyperbolic(geometry))
    if geometry in ("clip", "euclidean-inner"):
        return x, y
    if geometry == "euclidean-squared":
        one, other = torch.ones_like(x[:, :1]), torch.ones_like(y[:, :1])
        left = torch.cat([math.sqrt(2) * x, _square(x)[:, None], one], dim=1)
        return left, torch.cat([math.sqrt(2) * y, -other, -_square(y)[:, None]], dim=1)
    if geometry == "hyperbolic-inner":
        c = _number(curvature, like=x)
        (space, time), (other_space, other_time) = (lorentz(side, curvature=c) for side in (x, y))
        return torch.cat([space, time[:, None]], dim=1), torch.cat([other_space, -other_time[:, None]], dim=1)
    return None


def place(
    raw: Float[Tensor, "n d"], *, geometry: GeometryName, scale: Float[Tensor, ""] | float | None = None
) -> Float[Tensor, "n d"]:
    """What a tower gives, as points of a geometry: of length 1 for ``clip`` and ``elliptic``, else times ``scale``.

    Args:
        raw: embeddings of any length.
        geometry: one of ``GEOMETRIES``.
        scale: factor > 0; one over the square root of the width if None.
    """
    check_geometry(geometry)
    if geometry in ("clip", "elliptic"):
        return F.normalize(raw, dim=-1)
    return raw * (raw.shape[1] ** -0.5 if scale is None else scale)


def lorentz(
    rows: Float[Tensor, "n d"], *, curvature: Float[Tensor, ""]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """Space and time coordinates of the points of the hyperboloid that tangent vectors at its origin stand for."""
    length = curvature.sqrt() * torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    away = length > 0
    length = torch.where(away, length, 1.0)
    space = torch.where(away, torch.sinh(length) / length, 1.0) * rows
    return space, (1 / curvature + _square(space)).sqrt()


def _compare(
    dot: Tensor, left: Tensor, right: Tensor, geometry: GeometryName, curvature: Tensor | float | None
) -> Tensor:
    """Similarity from a dot product and two squared lengths, whatever they broadcast to."""
    if geometry in ("clip", "euclidean-inner"):
        return dot
    if geometry == "elliptic":
        return -dot.clamp(-COSINE_LIMIT, COSINE_LIMIT).arccos()
    if geometry.startswith("euclidean"):
        square = left - 2 * dot + right
        return -square if geometry == "euclidean-squared" else -(square.clamp_min(0) + ROOT_EPS).sqrt()
    c = _number(curvature, like=dot)
    lengths = [(c * side + _TINY).sqrt() for side in (left, right)]
    factor = [torch.sinh(length) / length for length in lengths]
    times = [(1 / c + stretch.square() * side).sqrt() for stretch, side in zip(factor, (left, right), strict=True)]
    product = factor[0] * factor[1] * dot - times[0] * times[1]
    if geometry == "hyperbolic-inner":
        return product
    angle = torch.acosh((-c * product).clamp_min(1 + ARCOSH_EPS))
    return -angle / c.sqrt() if geometry == "hyperbolic" else -angle.square() / c


def _number(curvature: Tensor | float | None, *, like: Tensor) -> Tensor:
    return torch.as_tensor(curvature, device=like.device, dtype=like.dtype)


def _square(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=-1)


def _wide(x: Tensor, y: Tensor, *, hyperbolic: bool) -> tuple[Tensor, Tensor]:
    least = torch.float64 if hyperbolic else torch.float32
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), least)
    return x.to(dtype), y.to(dtype)


def check_finite(model: object, *, where: str = "model") -> None:
    """Refuse a model whose scale, bias or curvature is NaN or infinite: what it says would be too.

    Args:
        model: any model that ``tether.load`` gives.
        where: what the message calls it.

    Raises:
        NotFiniteError: it names the number.
    """
    if damage := not_finite(model):
        raise NotFiniteError(f"{where}: its {damage}, not a finite number; the weights are damaged")


def not_finite(model: object) -> str:
    """The first of a model's scale, bias and curvature that is not finite, as ``logit_scale is nan``; or nothing."""
    numbers = {name: getattr(model, name, None) for name in ("logit_scale", "logit_bias")}
    for name, value in (numbers | {"curvature": geometry_of(model).curvature}).items():
        number = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(0.0 if value is None else value)
        if not number.isfinite().all():
            return f"{name} is {float(number):g}"
    return ""
