"""Coordinates that are extreme for almost every token: traces of position tables and layer norms (arXiv 2011.04393)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, overload

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import Bool, Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Limit, checked

if TYPE_CHECKING:  # the functions that take tensors use only the tensor's own methods
    from torch import Tensor

SIGMAS = 3.0
"""How far from the others a coordinate's mean must be; the rule of the literature that followed the paper."""
LEAST_DIMS, LEAST_TOKENS = 8, 2
Layers = Sequence[Float[np.ndarray, "n d"]] | Float[np.ndarray, "l n d"]


@dataclass(frozen=True, slots=True)
class OutlierDims:
    """What stands out, by layer.

    Attributes:
        dims: (k,) coordinates flagged in enough layers, ascending.
        z: (l, d) distance of each coordinate's mean from the average coordinate's, in standard deviations.
        flagged: (l, d) whether it exceeds the limit, either way.
        mean: (l, d) mean of each coordinate over the tokens.
    """

    dims: Int[np.ndarray, " k"]
    z: Float[np.ndarray, "l d"]
    flagged: Bool[np.ndarray, "l d"]
    mean: Float[np.ndarray, "l d"]


@dataclass(frozen=True, slots=True)
class ExtremeShares:
    """How often a coordinate is the extreme one.

    Attributes:
        least: (l, d) fraction of the tokens whose smallest coordinate this is; ties go to the first.
        most: (l, d) fraction of the tokens whose largest coordinate this is.
    """

    least: Float[np.ndarray, "l d"]
    most: Float[np.ndarray, "l d"]


@checked
def outlier_dims(
    hidden: Layers, *, z: Limit = SIGMAS, min_layers: Annotated[float, Gt(0), Le(1)] | Literal["all"] = "all"
) -> OutlierDims:
    """Find the coordinates whose mean over tokens is more than ``z`` deviations from the average coordinate's.

    The deviation is the population's (ddof 0). With d coordinates no |z| can exceed sqrt(d - 1), so with ten or fewer
    nothing ever passes 3, and several outliers hide each other.

    Source: arXiv 2011.04393, section 3; the paper gives no threshold, three deviations is the rule used since.

    Args:
        hidden: for each layer the states of the same tokens, without padding; leave special tokens such as [CLS] out.
        z: limit.
        min_layers: ``all``, or the fraction of the layers in which a coordinate must be flagged.

    Example:
        >>> import numpy as np
        >>> from tether.space import outlier_dims
        >>> hidden = np.random.default_rng(0).normal(size=(3, 200, 64))  # (layers, tokens, coordinates)
        >>> hidden[:, :, 11] += 20
        >>> outlier_dims(hidden).dims.tolist()
        [11]
    """
    share = 1.0 if min_layers == "all" else min_layers
    mean = np.stack([layer.mean(axis=0) for layer in _layers(hidden)])
    scores = standard_scores(mean)
    flagged = np.abs(scores) > z
    enough = flagged.mean(axis=0) >= share * (1 - 1e-12)
    return OutlierDims(dims=np.flatnonzero(enough), z=scores, flagged=flagged, mean=mean)


def largest_dims(z: Float[np.ndarray, " d"], *, count: int) -> Int[np.ndarray, " k"]:
    """The ``count`` coordinates with the largest |z|, ascending; ties go to the first."""
    if not 0 <= count <= len(z):
        raise InputError(f"count: expected 0 to {len(z)} coordinates, got {count}")
    return np.sort(np.argsort(-np.abs(z), kind="stable")[:count])


def extreme_shares(hidden: Layers) -> ExtremeShares:
    """Fraction of the tokens whose smallest, and whose largest, coordinate each one is.

    A second sign of an outlier, blind to how far it lies: above 0.8 in a later reproduction of arXiv 2011.04393.
    """
    least, most = [], []
    for layer in _layers(hidden):
        n, d = layer.shape
        least.append(np.bincount(layer.argmin(axis=1), minlength=d) / n)
        most.append(np.bincount(layer.argmax(axis=1), minlength=d) / n)
    return ExtremeShares(np.stack(least), np.stack(most))


@overload
def clip_dims(x: Float[np.ndarray, "*rows d"], *, dims: Sequence[int] | np.ndarray) -> np.ndarray: ...
@overload
def clip_dims(x: Tensor, *, dims: Sequence[int] | np.ndarray) -> Tensor: ...
def clip_dims(x: np.ndarray | Tensor, *, dims: Sequence[int] | np.ndarray) -> np.ndarray | Tensor:
    """A copy with these coordinates of the last axis set to zero; a tensor keeps its gradient elsewhere.

    Source: arXiv 2011.04393, section 4, which calls it clipping. It is meant for states that are read, after the fact:
    between layers it is another and destructive intervention.
    """
    places = check_dims(dims, width=x.shape[-1])
    if isinstance(x, np.ndarray):
        kept = x.copy()
        kept[..., places] = 0
        return kept
    keep = x.new_ones(x.shape[-1]).bool()
    keep[places] = False
    return x.where(keep, 0.0)


def check_dims(dims: Sequence[int] | np.ndarray, *, width: int) -> list[int]:
    """Sorted distinct coordinates."""
    found = np.asarray(dims)
    if found.size == 0:
        return []
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or found.min() < 0 or found.max() >= width:
        raise InputError(f"dims: expected whole numbers from 0 to {width - 1}, got {found.tolist()}")
    return np.unique(found).tolist()


def standard_scores(mean: Float[np.ndarray, "l d"]) -> Float[np.ndarray, "l d"]:
    """Each row minus its average, in population standard deviations; zero where all are equal."""
    centred = mean - mean.mean(axis=1, keepdims=True)
    deviation = mean.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def _layers(hidden: Layers) -> list[np.ndarray]:
    layers = [np.asarray(layer, dtype=np.float64) for layer in hidden]
    shapes = {layer.shape for layer in layers}
    if len(shapes) != 1 or layers[0].ndim != 2:
        raise InputError(f"hidden: expected one (tokens, d) for each layer, all of one shape, got {sorted(shapes)}")
    n, d = layers[0].shape
    if n < LEAST_TOKENS or d < LEAST_DIMS:
        raise InputError(
            f"hidden: expected at least {LEAST_TOKENS} tokens of {LEAST_DIMS} coordinates, got {n} of {d}: "
            "z-scores over so few say nothing"
        )
    for number, layer in enumerate(layers):
        if not np.isfinite(layer).all():
            raise InputError(f"hidden: layer {number} holds NaN or infinity")
    return layers
