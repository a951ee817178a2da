"""How common an embedding is among its kind, exactly and from one cosine (arXiv 2411.14517)."""

from __future__ import annotations

import warnings
from typing import Literal, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import Count, check_values, checked
from tether.space.serialisation import Saved
from tether.space.validation import checked_rows

CHUNK = 4096
"""Rows that are normalised at once."""
_SAME_ANGLE = 1e-12  # cosines that differ by less are one angle in float64


@checked
def conformity(
    features: Float[np.ndarray, "n d"], *, method: Literal["exact", "unit_mean"] = "exact", chunk: Count = CHUNK
) -> Float[np.ndarray, " n"]:
    """How much each row points the way the others of its modality do: near 1 for the common, lower for the unusual.

    No n x n matrix is made: the sum of the unit rows is enough, and it is taken in float64.

    Source: arXiv 2411.14517, section 4; ``unit_mean`` is what its released notebook computes.

    Args:
        features: raw embeddings of ONE modality; images and texts have different means and are never pooled.
        method: ``exact`` is the mean cosine to all other rows; ``unit_mean`` the cosine to the mean of the unit rows,
            an affine function of it: ``exact = (n l unit_mean - 1) / (n - 1)`` with l the length of that mean.
        chunk: rows that are held normalised at once.

    Raises:
        InputError: not (n, d), fewer than two rows, NaN or infinity, a row of zeros, an unknown method, or, for
            ``unit_mean``, unit rows that cancel each other.
    """
    rows = checked_rows(features, name="features")
    n = len(rows)
    total = _unit_sum(rows, chunk=chunk)
    along = np.concatenate([unit_rows(rows[start : start + chunk]) @ total for start in range(0, n, chunk)])
    if method == "exact":
        return (along - 1) / (n - 1)
    return along / _length(total, what="the mean of the unit rows")


class ConformityEstimator(Saved, BaseEstimator):
    """Tells how common an embedding is from its cosine to a mean, without the other embeddings at hand.

    Fit it on raw embeddings of one modality. With ``mean="raw"`` a line is fitted from the cosine to the mean of the
    raw rows to their exact conformity; it is near perfect where the embeddings lie off centre and poor where they do
    not (look at ``score`` on rows it was not fitted on). With ``mean="unit"`` nothing is estimated: for the rows it was
    fitted on the result is exact, and for another row it is what that row would have as one of the n.

    Source: arXiv 2411.14517, section 4.

    Args:
        mean: ``raw``, as in the paper, or ``unit``, the mean of the unit rows, as in its notebook.

    Attributes:
        mean_: (d,) that mean.
        a_: slope.
        b_: offset; conformity is estimated as ``a_ cos(row, mean_) + b_``.
        n_features_in_: d.
    """

    n_features_in_: int

    file_format = "tether-conformity-1"
    state = ("mean_", "a_", "b_")

    def __init__(self, *, mean: Literal["raw", "unit"] = "raw") -> None:
        """See the class for what the argument means; it is checked by ``fit``."""
        self.mean = mean

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> Self:
        """Learn from (n, d) raw embeddings; a row of zeros has no direction and is left out with a warning.

        ``y`` is ignored.

        Raises:
            ValueError: NaN or infinity, or not two-dimensional.
            InputError: fewer than two rows of length above zero, a mean of zero, or, with ``mean="raw"``, rows that all
                lie at one angle to the mean, through which no line can be fitted.
        """
        check_values(type(self).__init__, vars(self))
        table = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        rows = checked_rows(table[_directed(table)], name="X, without its rows of zeros,")
        n = len(rows)
        if self.mean == "unit":
            mean = _unit_sum(rows, chunk=CHUNK) / n
            self.a_ = n * _length(mean, what="the mean of the unit rows") / (n - 1)
            self.b_ = -1 / (n - 1)
        else:
            mean = rows.mean(axis=0)
            cosine = unit_rows(rows) @ (mean / _length(mean, what="the mean of the rows"))
            centred = cosine - cosine.mean()
            if np.abs(centred).max() <= _SAME_ANGLE:
                raise InputError(
                    f"every row (n_samples={n}, n_features={rows.shape[1]}) lies at the same angle to the mean: no "
                    "line can be fitted; their conformity is that angle's alone, see conformity()"
                )
            exact = conformity(rows)
            self.a_ = float(centred @ (exact - exact.mean()) / (centred @ centred))
            self.b_ = float(exact.mean() - self.a_ * cosine.mean())
        self.mean_ = mean
        return self

    def predict(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Estimated conformity of (n, d) raw embeddings; NaN, with a warning, for a row of zeros.

        Raises:
            ValueError: NaN or infinity, or another width.
        """
        check_is_fitted(self, "mean_")
        table = validate_data(self, X, dtype=np.float64, reset=False)
        directed = _directed(table)
        estimate = np.full(len(table), np.nan)
        cosine = unit_rows(table[directed]) @ (self.mean_ / np.linalg.norm(self.mean_))
        estimate[directed] = self.a_ * cosine + self.b_
        return estimate

    def score(self, X: Float[np.ndarray, "n d"], y: object = None) -> float:
        """Pearson correlation of the estimate with the exact conformity among these rows, in [-1, 1]; ``y`` is ignored.

        Raises:
            InputError: fewer than two rows, a row of zeros, or rows whose conformity does not differ.
        """
        exact = conformity(X)
        return pearson(self.predict(X), exact)


def pearson(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> float:
    """Correlation of two rows of numbers, in [-1, 1].

    Raises:
        InputError: unequal shapes, fewer than two numbers, or numbers that are all equal.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != two.shape or len(one) < 2:
        raise InputError(f"expected two rows of at least two numbers, got shapes {one.shape} and {two.shape}")
    one, two = one - one.mean(), two - two.mean()
    lengths = np.linalg.norm(one) * np.linalg.norm(two)
    if not lengths > 0:
        raise InputError("numbers that are all equal have no correlation with others")
    return float(np.clip(one @ two / lengths, -1.0, 1.0))


def unit_rows(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows scaled to length 1; none may be zero."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _directed(table: np.ndarray) -> np.ndarray:
    """Which rows have a direction."""
    directed = np.asarray(table.any(axis=1))
    if not directed.all():
        empty = np.flatnonzero(~directed)
        warnings.warn(f"{len(empty)} of {len(table)} rows are zero, the first is row {empty[0]}", stacklevel=3)
    return directed


def _unit_sum(rows: np.ndarray, *, chunk: int) -> np.ndarray:
    return np.sum([unit_rows(rows[start : start + chunk]).sum(axis=0) for start in range(0, len(rows), chunk)], axis=0)


def _length(mean: np.ndarray, *, what: str) -> float:
    length = float(np.linalg.norm(mean))
    if not length > np.finfo(np.float64).eps:
        raise InputError(f"{what} is zero: no cosine to it exists")
    return length
