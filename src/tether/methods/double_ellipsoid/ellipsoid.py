"""The shell on which raw embeddings of one modality lie, and walks around its centre (arXiv 2411.14517)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.space.conformity import conformity
from tether.space.slerp import angle, slerp
from tether.space.validation import checked_rows

BINS = 50
SWEEP = tuple(np.linspace(-1.0, 1.0, 21).round(10).tolist())
"""Places along the way between the two centres: 0 as trained, 1 centre on centre."""
_PSEUDO_COUNT = 0.5  # added to every bin, so that an empty one costs a finite amount
_CLOSE, _OPPOSITE = 1e-6, 1e-6  # radians from 0, where the arc is a line, and from pi, where there is no single arc


@dataclass(frozen=True, slots=True)
class ShellStats:
    """How raw embeddings lie around their mean.

    Attributes:
        mean_radius: mean distance from the mean.
        std_radius: population standard deviation of that distance.
        least_radius: smallest such distance; far above zero when the inside is empty.
        offset: length of the mean, the distance of the shell's centre from the origin.
        mean_length: mean length of the rows.
        variances: (d,) eigenvalues of the covariance (n - 1), descending.
        rank: how many of them are above zero in float64.
        eigenvalue_ratio: largest over smallest of them: 1 for a sphere, infinite for a covariance without full rank.
    """

    mean_radius: float
    std_radius: float
    least_radius: float
    offset: float
    mean_length: float
    variances: Float[np.ndarray, " d"]
    rank: int
    eigenvalue_ratio: float

    @property
    def ratio_within_rank(self) -> float:
        """Largest over smallest of the eigenvalues above zero; 1 where none is."""
        return float(self.variances[0] / self.variances[self.rank - 1]) if self.rank else 1.0

    @property
    def thickness(self) -> float:
        """Deviation of the radius over its mean; far below 1 for a thin shell."""
        return self.std_radius / self.mean_radius if self.mean_radius > 0 else 0.0

    @property
    def relative_offset(self) -> float:
        """Offset over the mean length: 0 for a centred cloud, near 1 for a narrow cone."""
        return self.offset / self.mean_length


@dataclass(frozen=True, slots=True)
class GapSweep:
    """How alike the conformities of images and texts are while the texts are moved toward the images.

    Attributes:
        t: (k,) how far the texts are moved, in units of the way between the centres.
        kl: (k,) divergence (nats) of the images' conformities from the texts' at each place.
    """

    t: Float[np.ndarray, " k"]
    kl: Float[np.ndarray, " k"]

    @property
    def best(self) -> float:
        """The place where the two are most alike; ties go to the first."""
        return float(self.t[int(np.argmin(self.kl))])


def shell_stats(features: Float[np.ndarray, "n d"]) -> ShellStats:
    """Measure the shell of raw embeddings of one modality.

    The mean squared radius is the trace of the population's covariance, whatever the shape. Normalised rows lie on a
    sphere around the origin by construction, so give rows as the tower gives them.

    Source: arXiv 2411.14517, section 3.
    """
    rows = checked_rows(features, name="features")
    mean = rows.mean(axis=0)
    centred = rows - mean
    radius = np.linalg.norm(centred, axis=1)
    variances = np.maximum(np.linalg.eigvalsh(centred.T @ centred / (len(rows) - 1))[::-1], 0.0)
    floor = variances[0] * max(rows.shape) * np.finfo(np.float64).eps
    rank = int((variances > floor).sum())
    return ShellStats(
        mean_radius=float(radius.mean()),
        std_radius=float(radius.std()),
        least_radius=float(radius.min()),
        offset=float(np.linalg.norm(mean)),
        mean_length=float(np.linalg.norm(rows, axis=1).mean()),
        variances=variances,
        rank=rank,
        eigenvalue_ratio=float(variances[0] / variances[-1]) if rank == len(variances) else float("inf"),
    )


@checked
def gap_sweep(
    image: Float[np.ndarray, "n d"],
    text: Float[np.ndarray, "m d"],
    *,
    t: Sequence[float] = SWEEP,
    bins: Annotated[int, Ge(2)] = BINS,
) -> GapSweep:
    """Move the texts along the way to the images' centre and compare the two histograms of conformity at each place.

    The paper finds a large CLIP near the least divergence as trained (``t = 0``). A small model need not be there:
    read the curve, do not take its least place for a recipe.

    Source: arXiv 2411.14517, section 5.

    Args:
        image: raw embeddings.
        text: raw embeddings, not necessarily as many.
        t: places; the texts are moved by ``t (mean(image) - mean(text))``.
        bins: of the histograms, over the range of all conformities seen; half a count is added to each.
    """
    images = checked_rows(image, name="image")
    texts = checked_rows(text, name="text", width=images.shape[1])
    places = np.asarray(t, dtype=np.float64)
    if places.ndim != 1 or not len(places) or not np.isfinite(places).all():
        raise InputError(f"t: expected at least one finite number, got {places.tolist()}")
    way = images.mean(axis=0) - texts.mean(axis=0)
    of_images = conformity(images)
    of_texts = [conformity(texts + place * way) for place in places]
    edges = np.linspace(*_range([of_images, *of_texts]), bins + 1)
    target = _shares(of_images, edges)
    kl = [float(np.sum(target * np.log(target / _shares(values, edges)))) for values in of_texts]
    return GapSweep(places, np.array(kl))


def vslerp(
    start: Float[np.ndarray, " d"],
    *,
    end: Float[np.ndarray, " d"],
    t: Sequence[float] | Float[np.ndarray, " k"],
    mean: Float[np.ndarray, " d"],
    mu: float = 1.0,
) -> Float[np.ndarray, "k d"]:
    """Walk from one raw embedding to another along an arc around ``mu`` times the modality's mean.

    ``mu = 0`` is ordinary slerp around the origin, ``mu = 1`` goes around the shell's centre. Two embeddings that
    point the same way from there are joined by a straight line.

    Source: arXiv 2411.14517, section 6. The angle is the one between the two vectors; the released vslerp.py takes the
    arc cosine of their elementwise product, which is no angle.

    Args:
        start: where ``t = 0`` is.
        end: where ``t = 1`` is.
        t: (k,) places.
        mean: (d,) mean of raw embeddings of the same modality.
        mu: how far the centre is moved from the origin toward the mean.
    """
    centre = mu * np.asarray(mean, dtype=np.float64)
    one, two = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    if one.ndim != 1 or not one.shape == two.shape == centre.shape:
        raise InputError(f"expected three vectors of one length, got shapes {one.shape}, {two.shape}, {centre.shape}")
    if not (np.isfinite(one).all() and np.isfinite(two).all() and np.isfinite(centre).all()):
        raise InputError("vslerp: a vector holds NaN or infinity")
    one, two, places = one - centre, two - centre, np.asarray(t, dtype=np.float64)
    between = angle(one, end=two)
    if between > np.pi - _OPPOSITE:
        raise InputError("the two embeddings lie on opposite sides of the centre: no single arc runs from one to other")
    if between < _CLOSE:
        return (1 - places)[:, None] * one + places[:, None] * two + centre
    return slerp(one, end=two, t=places) + centre


def _range(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = min(float(values.min()) for values in groups), max(float(values.max()) for values in groups)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.histogram(values, bins=edges)[0] + _PSEUDO_COUNT
    return counts / counts.sum()
