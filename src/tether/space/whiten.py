"""Whitening of raw embeddings: a log-likelihood for one image or caption, with nothing trained (arXiv 2505.06934)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Share, check_values
from tether.space.normality import NormalityReport, normality
from tether.space.serialisation import Saved
from tether.space.slerp import angle, slerp

NOISE_SCALE = 0.1  # released whitening_code.py: what a redundant feature is replaced by


class Whitener(Saved, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turns raw embeddings of one modality into coordinates with mean zero and identity covariance.

    Fit it on embeddings as the tower gives them, NOT normalised (unit rows have a null radial direction), of many
    more rows than dimensions, and score other rows than those: the log-likelihood of training rows is too high and
    that of new rows too low while n is only a few times d. Images and captions need one each. A high value means
    *usual for the reference set*, not *good*: blur moves a picture toward the mean and RAISES it.

    All arithmetic is in float64 with a symmetric eigendecomposition; the sign of an eigenvector is arbitrary, so
    compare distances, never single coordinates.

    Source: W-CLIP, arXiv 2505.06934, section 3, and its released whitening_code.py. It differs in that a redundant
    feature is left out instead of being replaced by noise (``replace="noise"`` does as the release does).

    Args:
        corr_threshold: a feature whose (signed) correlation with an earlier one exceeds this is redundant;
            None looks for none.
        eps: added to every eigenvalue, in squared units of the features, >= 0.
        shrinkage: in [0, 1], pulls the eigenvalues toward their mean; ``"ledoit_wolf"`` estimates it.
        replace: ``"remove"`` leaves redundant features out, so ``transform`` gives fewer columns; ``"noise"`` fits
            with 0.1 N(0, 1) in their place and keeps all columns, as the release does.
        random_state: seed or generator of that noise.

    Attributes:
        mean_: (d,) mean of the reference rows.
        components_: (d, k) the whitening matrix W; rows of removed features are zero.
        eigenvalues_: (k,) of the covariance (n - 1), descending, after shrinkage and eps.
        dropped_: indices of redundant features, ascending.
        inverse_: (k, d) from whitened coordinates back; a removed feature gets its best linear prediction.
        condition_number_: largest over smallest eigenvalue.
        n_features_in_: d.
    """

    n_features_in_: int

    file_format = "tether-whitener-1"
    state = ("mean_", "components_", "eigenvalues_", "dropped_", "inverse_")

    def __init__(
        self,
        *,
        corr_threshold: Annotated[float, Ge(-1), Le(1)] | None = 0.9,
        eps: NonNegative = 0.0,
        shrinkage: Share | Literal["ledoit_wolf"] | None = None,
        replace: Literal["remove", "noise"] = "remove",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.corr_threshold = corr_threshold
        self.eps = eps
        self.shrinkage = shrinkage
        self.replace = replace
        self.random_state = random_state

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> Self:
        """Learn mean and matrix from (n, d) raw embeddings; ``y`` is ignored.

        Raises:
            ValueError: NaN or infinity, or not two-dimensional.
            InputError: a setting out of range, n <= d, or a singular covariance, without eps or shrinkage.
        """
        check_values(type(self).__init__, vars(self))
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        n, d = X.shape
        mean = X.mean(axis=0)
        centred = X - mean
        dropped = redundant_features(X, threshold=self.corr_threshold)
        kept = np.setdiff1d(np.arange(d), dropped)
        if self.replace == "noise":
            noise = check_random_state(self.random_state).standard_normal((n, len(dropped)))
            centred[:, dropped] = NOISE_SCALE * noise
            kept = np.arange(d)
        regular = self.eps > 0 or (self.shrinkage is not None and self.shrinkage != 0)
        if n <= d and not regular:
            raise InputError(
                f"n_samples={n} rows cannot fix a covariance of {d} features: expected n > d "
                "(ten times d is a good start), or set shrinkage or eps"
            )
        reference = centred[:, kept]
        eigenvalues, vectors = np.linalg.eigh(reference.T @ reference / (n - 1))
        eigenvalues, vectors = np.maximum(eigenvalues[::-1], 0.0), vectors[:, ::-1]
        eigenvalues = self._regularise(eigenvalues, reference)
        if eigenvalues[-1] <= eigenvalues[0] * len(kept) * np.finfo(np.float64).eps:
            raise InputError(
                f"the covariance of {n} rows is singular: eigenvalues run from {eigenvalues[0]:.3g} to "
                f"{eigenvalues[-1]:.3g} (constant or dependent features, or normalised rows); "
                "give raw embeddings, or set shrinkage or eps"
            )
        root = np.sqrt(eigenvalues)
        self.components_ = np.zeros((d, len(kept)))
        self.components_[kept] = vectors / root
        self.inverse_ = np.zeros((len(kept), d))
        self.inverse_[:, kept] = (vectors * root).T
        if self.replace == "remove" and len(dropped):
            # The coordinates are uncorrelated, so regressing a left-out feature on them is one product.
            coordinates = centred @ self.components_
            self.inverse_[:, dropped] = coordinates.T @ centred[:, dropped] / np.sum(coordinates**2, axis=0)[:, None]
        self.mean_, self.eigenvalues_, self.dropped_ = mean, eigenvalues, dropped
        return self

    def transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Whitened coordinates of (n, d) raw embeddings, float64."""
        check_is_fitted(self, "components_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_) @ self.components_

    def inverse_transform(self, X: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n d"]:
        """Raw embeddings of (n, k) whitened coordinates; exact unless a feature was removed.

        Raises:
            InputError: a width other than that of ``transform``'s output, NaN or infinity.
        """
        check_is_fitted(self, "components_")
        W = np.asarray(X, dtype=np.float64)
        if W.ndim != 2 or W.shape[1] != len(self.inverse_):
            raise InputError(f"expected whitened rows of {len(self.inverse_)} coordinates, got shape {W.shape}")
        if not np.isfinite(W).all():
            raise InputError("whitened rows hold NaN or infinity")
        return W @ self.inverse_ + self.mean_

    def mahalanobis(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Distance from the mean in standard deviations: the length of each whitened row (not squared)."""
        return np.linalg.norm(self.transform(X), axis=1)

    def log_likelihood(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log-density (nats) of each whitened row under the standard normal of k dimensions."""
        return -0.5 * (len(self.inverse_) * np.log(2 * np.pi) + self.mahalanobis(X) ** 2)

    def normality_report(self, X: Float[np.ndarray, "n d"]) -> NormalityReport:
        """Whether the whitened rows of (n, d) raw embeddings look standard normal; use rows not fitted on."""
        return normality(self.transform(X))

    @property
    def condition_number_(self) -> float:
        """Largest over smallest eigenvalue: above about 1e6 the smallest directions are mostly noise."""
        check_is_fitted(self, "eigenvalues_")
        return float(self.eigenvalues_[0] / self.eigenvalues_[-1])

    @property
    def _n_features_out(self) -> int:
        return len(self.inverse_)

    def saved_settings(self) -> dict[str, Any]:
        """The constructor's keywords; a generator's position is not kept."""
        settings = self.get_params()
        return settings | {"random_state": settings["random_state"] if isinstance(self.random_state, int) else None}

    def _regularise(self, eigenvalues: np.ndarray, reference: np.ndarray) -> np.ndarray:
        if self.shrinkage is not None:
            amount = self.shrinkage
            if amount == "ledoit_wolf":
                amount = ledoit_wolf_shrinkage(reference, assume_centered=True)
            eigenvalues = (1 - amount) * eigenvalues + amount * eigenvalues.mean()
        return eigenvalues + self.eps


def redundant_features(X: Float[np.ndarray, "n d"], *, threshold: float | None) -> Int[np.ndarray, " r"]:
    """Indices j with correlation above the threshold to some earlier feature i < j, ascending.

    The correlation is signed, as in the release: a feature that mirrors another is kept. A constant feature
    correlates with nothing. ``threshold=None`` finds none.
    """
    if threshold is None or X.shape[1] < 2:
        return np.empty(0, dtype=np.int64)
    centred = X - X.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(length > 0, length, np.inf)
    above = np.triu(unit.T @ unit > threshold, k=1)
    return np.flatnonzero(above.any(axis=0))


def circle_slerp(
    source: Float[np.ndarray, " d"],
    *,
    target: Float[np.ndarray, " d"],
    degrees: Float[np.ndarray, " k"],
    whitener: Whitener,
) -> Float[np.ndarray, "k d"]:
    """Walk the full circle through two raw embeddings in whitened space and map each stop back.

    0 degrees is the source, the angle between the two is the target, 180 the source's opposite, 360 the source
    again (arXiv 2505.06934, released circle_slerp.py).

    Args:
        source: (d,) raw embedding.
        target: (d,) raw embedding.
        degrees: (k,) where to stop.
        whitener: fitted on the same modality.

    Raises:
        InputError: source and target point the same or the opposite way once whitened.
    """
    start, end = whitener.transform(np.stack([source, target]))
    between = np.degrees(angle(start, end=end))
    stops = np.asarray(degrees, dtype=np.float64)
    places = stops / between if between > 0 else stops
    return whitener.inverse_transform(slerp(start, end=end, t=places))
