"""Dependence measured with random features, and the map that has much of the wanted and little of the unwanted kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg
from scipy.spatial.distance import pdist

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, NonNegative, Positive, checked

MEDIAN_ROWS = 4000
"""Rows whose distances set the width of a kernel: arXiv 2403.15593, released hal/kernels/gaussian.py."""
ENERGY = 0.95
"""Share of the squared eigenvalues that the kept directions must hold: released build_kernel.py."""
NOTHING_LEFT = 0.999999999
"""From this weight of the unwanted dependence on nothing is kept: released build_kernel.py."""


@dataclass(frozen=True)
class RandomFeatures:
    """Cosines of random projections, whose dot products approximate a Gaussian kernel.

    Attributes:
        weights: (r, d) projections, normal with the inverse of the kernel's width as standard deviation.
        offsets: (r,) phases in [0, 2 pi).
    """

    weights: Float[np.ndarray, "r d"]
    offsets: Float[np.ndarray, " r"]

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n r"]:
        """The features of (n, d) rows; all lie within sqrt(2 / r)."""
        return np.sqrt(2 / len(self.offsets)) * np.cos(x @ self.weights.T + self.offsets)


@checked
def draw_features(
    x: Float[np.ndarray, "n d"],
    *,
    count: Count,
    width: Positive | Literal["median"] = "median",
    rng: np.random.RandomState,
) -> RandomFeatures:
    """Draw random features for rows such as ``x``.

    Args:
        x: (n, d) rows that the median distance is taken of.
        count: how many features.
        width: standard deviation of the kernel; ``median`` squares to half the median of the squared distances
            that are not zero, over at most 4000 rows (1 where all rows are equal).
        rng: draws.
    """
    if width == "median":
        some = x if len(x) <= MEDIAN_ROWS else x[rng.choice(len(x), MEDIAN_ROWS, replace=False)]
        apart = pdist(some, "sqeuclidean")
        apart = apart[apart > 0]
        width = float(np.sqrt(np.median(apart) / 2)) if len(apart) else 1.0
    return RandomFeatures(rng.standard_normal((count, x.shape[1])) / width, rng.uniform(0, 2 * np.pi, size=count))


@dataclass(frozen=True)
class HsicMap:
    """A linear map of random features.

    Attributes:
        directions: (r, k) each of length sqrt(n), or zero beyond ``rank``; their sign is chosen by the caller.
        eigenvalues: (k,) gain of each direction, descending.
        rank: how many are kept.
    """

    directions: Float[np.ndarray, "r k"]
    eigenvalues: Float[np.ndarray, " k"]
    rank: int


@checked
def hsic_solve(
    features: Float[np.ndarray, "n r"],
    *,
    y: Float[np.ndarray, "n c"],
    s: Float[np.ndarray, "n g"] | None = None,
    z: Float[np.ndarray, "n q"] | None = None,
    tau: tuple[Decay, Decay] = (0.0, 0.0),
    gamma: NonNegative = 3e-4,
    dim: Count = 1,
) -> HsicMap:
    """Directions of the features that depend most on ``y`` and ``z`` and least on ``s``.

    Solved as a symmetric generalised eigenproblem in float64; the released code inverts and calls a general solver in
    float32, whose result differs by noise. Directions have one length instead of being orthonormal in the constraint
    of the paper, as released.

    Source: arXiv 2403.15593 and released build_kernel.py.

    Args:
        features: (n, r) of the rows that are mapped, not centred.
        y: (n, c) what the codes shall depend on, e.g. classes as +-1.
        s: (n, g) what they shall not depend on; None where there is nothing.
        z: (n, q) random features of the other side's codes, which they shall agree with; None in the first solve.
        tau: weights of ``s`` and of ``z``, entering as tau / (1 - tau).
        gamma: ridge, times n.
        dim: how many directions.
    """
    n, r = features.shape
    for name, given in (("y", y), ("s", s), ("z", z)):
        if given is not None and (given.ndim != 2 or len(given) != n):
            raise InputError(f"{name}: expected {n} rows, got shape {given.shape}")
    if dim > r:
        raise InputError(f"dim: expected at most the {r} features, got {dim}")
    wanted = _dependence(features, y, name="y")
    if z is not None and tau[1] > 0:
        wanted += tau[1] / (1 - tau[1]) * _dependence(features, z, name="z")
    if s is not None and tau[0] > 0:
        wanted -= tau[0] / (1 - tau[0]) * _dependence(features, s, name="s")
    centred = features - features.mean(axis=0)
    spread = centred.T @ centred
    spread[np.diag_indices(r)] += n * gamma
    try:
        found = linalg.eigh((wanted + wanted.T) / 2, spread, overwrite_a=True, overwrite_b=True)
    except linalg.LinAlgError:
        raise InputError(f"gamma={gamma}: the features' covariance is singular; give a larger gamma") from None
    gains, vectors = np.asarray(found[0])[::-1], np.asarray(found[1])[:, ::-1][:, :dim]
    directions = vectors / np.linalg.norm(vectors, axis=0) * np.sqrt(n)
    rank = _rank(gains, dim=dim, tau_s=tau[0])
    directions[:, rank:] = 0
    return HsicMap(directions, gains[:dim], rank)


def plus_minus(codes: Int[np.ndarray, " n"], *, classes: int) -> Float[np.ndarray, "n c"]:
    """One column for each class: 1 where a row is of it, -1 elsewhere."""
    return 2.0 * (codes[:, None] == np.arange(classes)) - 1


def _dependence(features: np.ndarray, other: np.ndarray, *, name: str) -> Float[np.ndarray, "r r"]:
    """Outer product of the cross-covariance, scaled to a largest singular value of 1."""
    cross = features.T @ (other - other.mean(axis=0))
    size = np.linalg.norm(cross, 2)
    if not size > 0:
        raise InputError(f"{name}: it is the same for all rows, so nothing depends on it")
    cross /= size
    return cross @ cross.T


def _rank(gains: np.ndarray, *, dim: int, tau_s: float) -> int:
    """How many of the first directions carry 95 % of the squared gains of those that gain more than rounding."""
    if tau_s == 0:
        return dim
    rounding = len(gains) * np.finfo(np.float64).eps * np.abs(gains).max()
    most = min(int((gains > rounding).sum()), dim)
    if most == 0 or tau_s >= NOTHING_LEFT:
        return 0
    energy = np.cumsum(gains[:most] ** 2)
    return int(np.argmax(energy / energy[-1] >= ENERGY)) + 1
