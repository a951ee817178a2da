"""Outlier coordinates of embeddings found once and set to zero ever after: a scikit-learn transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.core.ranges import Limit, Whole, check_values
from tether.space.outlier_dims import SIGMAS, check_dims, largest_dims, standard_scores

_FORMAT = "tether-outlier-clipper-1"


class OutlierClipper(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Sets the coordinates to zero whose mean stands out among all coordinates' means.

    Fit it on token states or on embeddings as an encoder gives them, not normalised, and before a projection that mixes
    the coordinates. Ten or fewer coordinates never have an outlier of three deviations, so nothing happens to them.

    Source: arXiv 2011.04393, section 4.

    Args:
        z: limit in population standard deviations.
        count: take this many coordinates with the largest |z| instead, whatever their size; None follows ``z``.

    Attributes:
        dims_: (k,) coordinates that ``transform`` sets to zero, ascending.
        z_: (d,) how far each coordinate's mean stands out.
        n_features_in_: d.
    """

    n_features_in_: int

    def __init__(self, *, z: Limit = SIGMAS, count: Whole | None = None) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.z = z
        self.count = count

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> OutlierClipper:
        """Find the coordinates; ``y`` is ignored."""
        check_values(type(self).__init__, vars(self))
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        scores = standard_scores(X.mean(axis=0)[None])[0]
        found = (
            np.flatnonzero(np.abs(scores) > self.z) if self.count is None else largest_dims(scores, count=self.count)
        )
        self.dims_, self.z_ = found, scores
        return self

    def transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """A copy with the outlier coordinates set to zero; float32 stays float32."""
        check_is_fitted(self, "dims_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False, copy=True)
        X[:, self.dims_] = 0
        return X

    def save(self, path: Path | str) -> None:
        """Write settings and coordinates to one JSON file, atomically."""
        check_is_fitted(self, "dims_")
        state = {"dims": self.dims_.tolist(), "z": self.z_.tolist()}
        write_json(Path(path), {"format": _FORMAT, "settings": self.get_params(), **state})

    @classmethod
    def load(cls, path: Path | str) -> OutlierClipper:
        """Read what ``save`` wrote."""
        values = read_json(Path(path))
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise InputError(f"{path}: expected the state of an OutlierClipper ({_FORMAT})")
        try:
            clipper = cls(**values["settings"])
            clipper.z_ = np.array(values["z"], dtype=np.float64)
            clipper.n_features_in_ = clipper.z_.size
            clipper.dims_ = np.array(check_dims(values["dims"], width=clipper.z_.size), dtype=np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: damaged: {error!r}") from None
        return clipper
