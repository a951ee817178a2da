"""Coordinates that carry an unwanted association, found and left out of images and texts alike (arXiv 2409.19474)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.core.ranges import Count, check_values, checked
from tether.methods.fairpivara.association import TOP_TEXTS, checked_words, histogram_mi, signed_top
from tether.space.outlier_dims import check_dims

REMOVED = 54
"""Coordinates of 512 that go: arXiv 2409.19474."""
THETA = 0.05
"""Limit of mutual information in nats: released code."""
FALLBACK_SHARE = 0.25
"""Fraction of the coordinates that is admitted, those of least information, where the limit admits none."""
_FORMAT = "tether-dimension-mask-1"
_SCORES_AT_ONCE = 1 << 24  # numbers

Mode = Literal["prefix", "official"]
Order = Literal["highest", "nearest_zero"]


@dataclass(frozen=True)
class DimensionMask:
    """Coordinates to leave out of embeddings.

    Attributes:
        dims: the coordinates, distinct, in the order they were found.
        dim: width of the embeddings.
        settings: what they were found with, plain values.
    """

    dims: tuple[int, ...]
    dim: int
    settings: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        """Refuse coordinates that are not there, or all of them."""
        check_dims(list(self.dims), width=self.dim)
        if len(set(self.dims)) != len(self.dims) or len(self.dims) >= self.dim:
            raise InputError(f"dims: expected distinct coordinates, fewer than {self.dim}, got {list(self.dims)}")

    def apply(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """The rows without the coordinates; of unit rows the lengths fall, so compare by cosine afterwards."""
        return np.delete(self._checked(x), self.dims, axis=1)

    def zero(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """The rows with the coordinates set to zero: the same dot products, the old width."""
        done = self._checked(x).copy()
        done[:, list(self.dims)] = 0
        return done

    def save(self, path: Path | str) -> None:
        """Write coordinates, width and settings to one JSON file, atomically."""
        write_json(Path(path), {"format": _FORMAT, "dims": list(self.dims), "dim": self.dim, "settings": self.settings})

    @classmethod
    def load(cls, path: Path | str) -> DimensionMask:
        """Read what ``save`` wrote."""
        values = read_json(Path(path))
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise InputError(f"{path}: expected the state of a DimensionMask ({_FORMAT})")
        try:
            return cls(tuple(values["dims"]), values["dim"], values["settings"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged: {error!r}") from None

    def _checked(self, x: np.ndarray) -> np.ndarray:
        rows = np.asarray(x)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise InputError(f"expected rows of {self.dim} coordinates, got shape {rows.shape}")
        return rows


@dataclass(frozen=True)
class Selection:
    """What ``select_dimensions`` found.

    Attributes:
        dims: coordinates to leave out, in order; may be empty.
        bias: the bias with all coordinates.
        remaining: the bias without ``dims``, on the images they were chosen with: optimistic.
        listed: every coordinate that was tried, in order.
        bias_path: (len(listed),) the bias along the list: without the first k + 1 coordinates (``prefix``), or
            without coordinate k alone (``official``).
        candidates: coordinates that passed both conditions, ascending.
        mi: (d,) mutual information of each coordinate and the label that its absence leaves.
        bias_without: (d,) bias without each coordinate alone.
        mask: the coordinates as something to apply and to save.
    """

    dims: tuple[int, ...]
    bias: float
    remaining: float
    listed: tuple[int, ...]
    bias_path: Float[np.ndarray, " k"]
    candidates: Int[np.ndarray, " c"]
    mi: Float[np.ndarray, " d"]
    bias_without: Float[np.ndarray, " d"]
    mask: DimensionMask


@checked
def select_dimensions(
    images: Float[np.ndarray, "n d"],
    *,
    positive: Float[np.ndarray, "p d"],
    negative: Float[np.ndarray, "u d"],
    n: Count = REMOVED,
    theta: float = THETA,
    top_k: Count = TOP_TEXTS,
    mode: Mode = "prefix",
    order: Order = "highest",
) -> Selection:
    """Find the coordinates whose absence brings the bias of ``association_bias`` nearest to zero.

    A coordinate is a candidate when leaving it out shrinks the bias and when it tells little of which list an image
    is nearest to. The candidates are put in order and left out one after another; the shortest list that leaves the
    least bias stays. Choose on one half of your images and judge on the other: on the half they were chosen with, the
    remaining bias is too small.

    Mutual information from a histogram is large for few images, so ``theta`` belongs to n. Where it admits nothing,
    the quarter of least information is admitted with a warning.

    Source: arXiv 2409.19474. The released code scores each listed coordinate alone and always returns the
    whole list (``mode="official"``); here a list is left out as a whole and cut where it is best.

    Args:
        images: (n, d) unit embeddings.
        positive: (p, d) unit embeddings of the words that count plus.
        negative: (u, d) of those that count minus.
        n: most coordinates that may go.
        theta: limit of mutual information in nats.
        top_k: words that count for each image.
        mode: ``prefix`` leaves out whole lists and keeps the best; ``official`` returns the first ``n`` as released.
        order: ``highest`` takes candidates by their remaining bias, the highest first, as released, which for a
            positive bias begins with those that help least; ``nearest_zero`` begins with those that help most.

    Warns:
        UserWarning: rows that are not of length 1, or ``theta`` admits no coordinate.

    Example:
        >>> import numpy as np
        >>> from tether.methods.fairpivara.fair_dims import select_dimensions
        >>> rng = np.random.default_rng(0)
        >>> images, words = rng.normal(size=(500, 32)), rng.normal(size=(20, 32)) * 0.3
        >>> images[:, 5] += 2  # the concept leans along one coordinate
        >>> words[:10, 5], words[10:, 5] = -1, 1
        >>> images, words = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, words))
        >>> 5 in select_dimensions(images, positive=words[:10], negative=words[10:], n=4, theta=1.0).dims
        True
    """
    images, texts, signs = checked_words(images, positive=positive, negative=negative)
    width = images.shape[1]
    if n >= width:
        raise InputError(f"n: expected 1 to {width - 1} of {width} coordinates, got {n}")
    scores = images @ texts.T
    bias = float(signed_top(scores, signs=signs, top_k=top_k))
    without, labels = _without_each(images, texts, scores, signs=signs, top_k=top_k)
    mi = np.array([histogram_mi(images[:, d], labels[d]) for d in range(width)])
    known = mi < theta
    if mode == "prefix" and not known.any():
        limit = float(np.quantile(mi, FALLBACK_SHARE))
        warnings.warn(
            f"theta={theta:g} admits no coordinate: with {len(images)} images the least mutual information is "
            f"{mi.min():.3g}; took the {FALLBACK_SHARE:.0%} of least information, up to {limit:.3g}",
            stacklevel=2,
        )
        known = mi <= limit
    candidates = np.flatnonzero(known & (np.abs(without) < abs(bias)))
    key = -without if order == "highest" else np.abs(without)
    listed = candidates[np.argsort(key[candidates], kind="stable")][:n]
    path = without[listed] if mode == "official" else _along(images, texts, scores, listed, signs=signs, top_k=top_k)
    dims, remaining = listed, bias
    if mode == "prefix":
        best = int(np.argmin(np.abs(np.append(bias, path))))
        dims, remaining = listed[:best], float(np.append(bias, path)[best])
    elif len(listed):
        remaining = float(_along(images, texts, scores, listed, signs=signs, top_k=top_k)[-1])
    settings = {"n": n, "theta": theta, "top_k": top_k, "mode": mode, "order": order, "images": len(images)}
    mask = DimensionMask(tuple(map(int, dims)), width, settings)
    return Selection(mask.dims, bias, remaining, tuple(map(int, listed)), path, candidates, mi, without, mask)


class FairDims(SelectorMixin, BaseEstimator):
    """``select_dimensions`` as a scikit-learn selector: fitted on images, it drops the coordinates from any rows.

    ``transform`` drops, ``inverse_transform`` puts zeros back, ``get_support`` says which stay. Without words there is
    no association, and nothing is left out.

    Source: arXiv 2409.19474.

    Args:
        positive: (p, d) unit embeddings of the words that count plus, or None.
        negative: (u, d) of those that count minus, or None.
        n: as in ``select_dimensions``, like all that follow.
        theta: limit of mutual information in nats.
        top_k: words that count for each image.
        mode: ``prefix`` or ``official``.
        order: ``highest`` or ``nearest_zero``.

    Attributes:
        mask_: the coordinates, as a ``DimensionMask``.
        selection_: everything that was found, or None without words.
        n_features_in_: d.
    """

    n_features_in_: int

    def __init__(
        self,
        *,
        positive: Float[np.ndarray, "p d"] | Sequence[Sequence[float]] | None = None,
        negative: Float[np.ndarray, "u d"] | Sequence[Sequence[float]] | None = None,
        n: Count = REMOVED,
        theta: float = THETA,
        top_k: Count = TOP_TEXTS,
        mode: Mode = "prefix",
        order: Order = "highest",
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.positive = positive
        self.negative = negative
        self.n = n
        self.theta = theta
        self.top_k = top_k
        self.mode: Mode = mode
        self.order: Order = order

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> FairDims:
        """Choose the coordinates on (n, d) unit images; ``y`` is ignored."""
        check_values(type(self).__init__, vars(self))
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if (self.positive is None) != (self.negative is None):
            raise InputError("positive and negative words come together or not at all")
        self.selection_ = None
        self.mask_ = DimensionMask((), X.shape[1])
        if self.positive is not None and self.negative is not None:
            words: dict[str, Any] = {"positive": np.asarray(self.positive), "negative": np.asarray(self.negative)}
            self.selection_ = select_dimensions(X, **(self.get_params() | words))
            self.mask_ = self.selection_.mask
        return self

    def _get_support_mask(self) -> Bool[np.ndarray, " d"]:
        check_is_fitted(self, "mask_")
        support = np.ones(self.n_features_in_, dtype=bool)
        support[list(self.mask_.dims)] = False
        return support


def _without_each(
    images: np.ndarray, texts: np.ndarray, scores: np.ndarray, *, signs: np.ndarray, top_k: int
) -> tuple[Float[np.ndarray, " d"], Int[np.ndarray, "d n"]]:
    """For each coordinate left out alone: the bias, and 1 for each image whose most similar word is positive."""
    width = images.shape[1]
    bias, labels = np.empty(width), np.empty((width, len(images)), dtype=np.int64)
    step = max(1, _SCORES_AT_ONCE // scores.size)
    for start in range(0, width, step):
        some = slice(start, start + step)
        changed = scores - images.T[some, :, None] * texts.T[some, None, :]
        bias[some] = signed_top(changed, signs=signs, top_k=top_k)
        labels[some] = signs[changed.argmax(axis=-1)] > 0
    return bias, labels


def _along(
    images: np.ndarray, texts: np.ndarray, scores: np.ndarray, dims: np.ndarray, *, signs: np.ndarray, top_k: int
) -> Float[np.ndarray, " k"]:
    """The bias as the coordinates are left out one after another."""
    path, left = np.empty(len(dims)), scores.copy()
    for place, d in enumerate(dims):
        left -= np.outer(images[:, d], texts[:, d])
        path[place] = signed_top(left, signs=signs, top_k=top_k)
    return path
