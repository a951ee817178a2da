"""One direction in an embedding space along which phrases run from one pole to the other (arXiv 2103.11790)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Real
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, Whole, check_values
from tether.space.serialisation import FittedState

COMPONENTS = 5  # released pca.py
CLUSTERS = 2  # released pca.py
CLEAR = 1.5
"""How many times the second fraction of the variance the first must be for one direction to stand out."""


class ConceptDirection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FittedState):
    """The first principal direction of embedded examples, with a sign that points at the good pole.

    Fit it on embeddings of phrases from both poles, about as many of each, and score others: the score is the signed
    coordinate along that direction, 0 at the examples' centre and within [-1, 1] for the examples themselves. Scores
    are no probabilities, and they say what the encoder has read, not what is right. Where no direction stands out
    (look at ``explained_variance_ratio_``) the examples do not lie along a line, and the first one may be word
    frequency or anything else.

    Source: Moral Direction, arXiv 2103.11790, and its released mort/pca.py.

    Args:
        n_components: how many principal directions are kept; None keeps five, or as many as there are.
        anchor: row of an example that is surely on the bad side: the sign then follows the released rule, by the
            cluster (Ward, two of them, in the kept coordinates) without that row. None takes the sign from ``y``.
        scale: what the first coordinate is divided by: ``largest`` magnitude among the examples, or a number.

    Attributes:
        mean_: (d,) of the examples.
        components_: (k, d) principal directions; the sign of each is arbitrary.
        explained_variance_ratio_: (k,) fraction of the examples' variance along each.
        sign_: 1 or -1, of the first direction.
        scale_: what the first coordinate is divided by.
        labels_: (n,) cluster of each example, where ``anchor`` was used; otherwise None.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from tether.methods.moral_direction import ConceptDirection
        >>> good = np.random.default_rng(0).normal(size=(20, 8)) + np.eye(8)[0] * 5  # embeddings of phrases
        >>> bad = np.random.default_rng(1).normal(size=(20, 8)) - np.eye(8)[0] * 5
        >>> direction = ConceptDirection().fit(np.vstack([good, bad]), [1] * 20 + [0] * 20)
        >>> (direction.score_samples([[4.0] + [0.0] * 7, [-4.0] + [0.0] * 7]) > 0).tolist()
        [True, False]
    """

    n_features_in_: int
    labels_: np.ndarray | None = None
    _format = "tether-concept-direction-1"
    _state = ("mean_", "components_", "explained_variance_ratio_", "sign_", "scale_")

    def __init__(
        self,
        *,
        n_components: Count | None = None,
        anchor: Whole | None = None,
        scale: Positive | Literal["largest"] = "largest",
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.n_components = n_components
        self.anchor = anchor
        self.scale = scale

    def fit(
        self, X: Float[np.ndarray, "n d"], y: Sequence[float] | Real[np.ndarray, " n"] | None = None
    ) -> ConceptDirection:
        """Learn from (n, d) embeddings.

        Args:
            X: one example a row.
            y: (n,) numbers, larger for the good pole: 1 and 0, or degrees. Without it and without ``anchor`` the sign
                is fixed but means nothing.
        """
        check_values(type(self).__init__, vars(self))
        if y is None:
            X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2, y_numeric=True)
        n, d = X.shape
        kept = min(COMPONENTS, n, d) if self.n_components is None else self.n_components
        if kept > min(n, d):
            raise InputError(
                f"n_components: expected 1 to {min(n, d)} for n_samples={n} and n_features={d}, got {kept!r}"
            )
        if self.anchor is not None and self.anchor >= n:
            raise InputError(f"anchor: expected a row from 0 to {n - 1}, got {self.anchor!r}")
        mean = X.mean(axis=0)
        _, lengths, directions = np.linalg.svd(X - mean, full_matrices=False)
        total = float(lengths @ lengths)
        if not total > (np.finfo(np.float64).eps * np.abs(X).max()) ** 2 * n * d:
            raise InputError(f"the examples are all equal (n_samples={n}, n_features={d}): they lie along no direction")
        # One fixed sign for every platform: the entry of largest magnitude is positive, as in scikit-learn's PCA.
        largest = np.abs(directions).argmax(axis=1)
        directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
        self.mean_ = mean
        self.components_ = directions[:kept]
        self.explained_variance_ratio_ = lengths[:kept] ** 2 / total
        coordinates = (X - mean) @ self.components_.T
        self.labels_ = None if self.anchor is None else _clusters(coordinates)
        if self.anchor is not None and self.labels_ is not None:
            pole = self.labels_ == (1 if self.labels_[self.anchor] == 0 else 0)
            leaning = float(coordinates[pole, 0].mean())
        else:
            leaning = 0.0 if y is None else float(coordinates[:, 0] @ (np.asarray(y, dtype=np.float64) - np.mean(y)))
        self.sign_ = -1 if leaning < 0 else 1
        self.scale_ = float(np.abs(coordinates[:, 0]).max() if isinstance(self.scale, str) else self.scale)
        return self

    @property
    def clarity_(self) -> float:
        """First fraction of the variance over the second; infinite where there is no second."""
        check_is_fitted(self, "explained_variance_ratio_")
        ratio = self.explained_variance_ratio_
        return float(ratio[0] / ratio[1]) if len(ratio) > 1 and ratio[1] > 0 else float("inf")

    def warn_if_unclear(self) -> None:
        """Warn where the first direction explains less than 1.5 times what the second does."""
        if self.clarity_ < CLEAR:
            first, second = self.explained_variance_ratio_[:2]
            warnings.warn(
                f"no direction stands out: the first explains {first:.3f} of the variance, the second {second:.3f}; "
                "scores along the first may mean something else",
                stacklevel=3,
            )

    def score_samples(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Signed coordinate of (n, d) embeddings along the direction, in units of the examples' largest."""
        first = self.coordinates(X)[:, 0]
        return self.sign_ * first / self.scale_

    def transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 1"]:
        """The same as a column, for a ``Pipeline``."""
        return self.score_samples(X)[:, None]

    def coordinates(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Plain principal coordinates of (n, d) embeddings, without sign and scale."""
        check_is_fitted(self, "components_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_) @ self.components_.T

    @property
    def _n_features_out(self) -> int:
        return 1


def _clusters(coordinates: np.ndarray) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(n_clusters=CLUSTERS, linkage="ward").fit(coordinates).labels_
