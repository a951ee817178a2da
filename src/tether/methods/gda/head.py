"""Classes as Gaussians of one covariance, in closed form, added to the zero-shot logits (arXiv 2402.04087)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
from annotated_types import MinLen
from jaxtyping import Float
from scipy.special import softmax
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from tether.adaptation.training_free.text_guided import (
    LOGIT_SCALE,
    Labelled,
    Rows,
    TextGuidedClassifier,
    accuracy,
    as_array,
)
from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, Whole, check_values, checked
from tether.space.validation import checked_unit_rows

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # released code
_NO_ALPHA_HELPS = 0.1  # released code
_FLAT = 1e-12  # of the mean squared length: less scatter than rounding leaves


class GDAClassifier(TextGuidedClassifier):
    """A mean for each class and one precision matrix for all, from a few embeddings, without a gradient step.

    ``logits = logit_scale * cosine with the text + alpha * (x W + b)`` with ``W = P mu`` and
    ``b = log prior - mu' P mu / 2``. With one image a class nothing scatters around the means; then the precision is
    the identity and this is the nearest class mean. Further crops of the images, each counted as a row, help: the
    paper takes ten of each.

    Source: arXiv 2402.04087, section 3, and its released main_few_shots.py and main_base2new.py. ``fit_unlabelled`` is
    the paper's EM, of which there is no released code. It differs in that alpha is never searched on test images, a
    class with one image adds nothing to ``mean_class_pinv``, and all arithmetic is in float64.

    Args:
        alpha: weight of the Gaussians; ``search`` takes the one of ``alphas`` that does best on validation rows.
        precision: ``ks`` shrinks the covariance as Kubokawa and Srivastava do; ``mean_class_pinv`` is the
            pseudo-inverse of the classes' mean covariance, which the paper takes before ``extend``.
        priors: of the classes; ``uniform``, ``empirical`` (the share of each among the rows), or a number for each
            class, which are scaled to add up to 1.
        alphas: searched upwards; a later one must do better to be taken.
        logit_scale: of the cosines; ``for_encoder`` takes the model's own. Alpha depends on it.
        digest: of the encoder's image side, for ``save``; ``for_encoder`` knows it.

    Attributes:
        classes_: (c,) the classes.
        means_: (c, d) mean unit row of each class, not scaled again.
        precision_: (d, d) inverse covariance.
        coef_: (c, d) row of each class; its transpose is W of the paper.
        intercept_: (c,) b of the paper.
        priors_: (c,) of the classes.
        alpha_: weight that is used.
        validation_accuracy_: share right on the validation rows for each of ``alphas``; empty without a search.
        text_weights_: (c, d) unit row of each class.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from tether.methods.gda import GDAClassifier
        >>> rng = np.random.default_rng(0)
        >>> texts, y = np.eye(8)[:3], np.repeat(np.arange(3), 20)  # three classes, 20 images each
        >>> X = texts[y] + rng.normal(size=(60, 8))
        >>> train, validation = (X[::2], y[::2]), (X[1::2], y[1::2])
        >>> head = GDAClassifier().fit(*train, text_weights=texts, validation=validation)
        >>> head.alpha_ in head.alphas, head.coef_.shape
        (True, (3, 8))
    """

    _format: ClassVar[str] = "tether-gda-classifier-1"
    _state: ClassVar[tuple[str, ...]] = (
        "text_weights_",
        "means_",
        "precision_",
        "coef_",
        "intercept_",
        "priors_",
        "alpha_",
        "validation_accuracy_",
    )

    def __init__(
        self,
        *,
        alpha: Positive | Literal["search"] = "search",
        precision: Literal["ks", "mean_class_pinv"] = "ks",
        priors: Literal["uniform", "empirical"] | Sequence[Positive] = "uniform",
        alphas: Annotated[Sequence[Positive], MinLen(1)] = ALPHAS,
        logit_scale: Positive = LOGIT_SCALE,
        digest: str | None = None,
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.alpha: float | Literal["search"] = alpha
        self.precision: Literal["ks", "mean_class_pinv"] = precision
        self.priors = priors
        self.alphas = alphas
        self.logit_scale = logit_scale
        self.digest = digest

    def fit(
        self,
        X: Rows | Tensor,
        y: Sequence[object] | np.ndarray,
        *,
        text_weights: Float[np.ndarray, "c d"] | Tensor | None = None,
        classes: Sequence[object] | np.ndarray | None = None,
        validation: Labelled | None = None,
    ) -> GDAClassifier:
        """Fit means and precision to labelled rows.

        Args:
            X: (n, d) image embeddings of any length above zero.
            y: (n,) class of each; every class needs one.
            text_weights: (c, d) text embedding of each class; None lets the mean image of each class stand in.
            classes: the class of each of these rows; sorted as in ``y`` if None.
            validation: embeddings and classes on which alpha is searched, none of them in ``X``.

        Raises:
            ValueError: NaN or infinity, or shapes that scikit-learn refuses.
            InputError: fewer than two classes, a class without an image, a label that is no class, rows of another
                width, or a search without validation rows.
        """
        rows, codes = self._begin(X, y, text_weights=text_weights, classes=classes)
        self._search_is_possible(validation)
        count = len(self.classes_)
        shares = np.eye(count)[codes]
        self.means_ = _means(rows, shares, texts=self.text_weights_)
        if self.precision == "ks":
            away = rows - self.means_[codes]
            self.precision_ = shrunk_precision(away.T @ away, rows=len(rows), divisor=len(rows) - 1)
        else:
            self.precision_ = _mean_class_precision([rows[codes == c] for c in range(count)])
        self.priors_ = self._priors(shares)
        self._discriminate()
        return self._weigh(validation)

    @checked
    def fit_unlabelled(
        self,
        X: Rows | Tensor,
        *,
        text_weights: Float[np.ndarray, "c d"] | Tensor,
        classes: Sequence[object] | np.ndarray | None = None,
        validation: Labelled | None = None,
        n_iter: Count = 1,
    ) -> GDAClassifier:
        """Fit to rows without labels, by expectation-maximisation from the zero-shot probabilities.

        A class that no row is given to has its text as its mean. The shrunk precision is smaller than the inverse
        covariance where rows outnumber features, so that each further round tells the classes apart less: with 200
        rows of 12 features the classes are the same after ten. See what more than one does to yours.

        Args:
            X: (n, d) image embeddings.
            text_weights: (c, d) text embedding of each class.
            classes: their names; 0 to c - 1 if None.
            validation: as for ``fit``.
            n_iter: rounds.

        Raises:
            InputError: as for ``fit``, or another precision than ``ks``.
        """
        check_values(type(self).__init__, vars(self))
        if self.precision != "ks":
            raise InputError(f"precision: expected 'ks' for rows without labels, got {self.precision!r}")
        rows = checked_unit_rows(validate_data(self, as_array(X), dtype=np.float64, ensure_min_samples=2), name="X")
        self._name(text_weights, classes)
        self._search_is_possible(validation)
        shares = softmax(self._zero_shot(rows), axis=1)
        for _ in range(n_iter):
            self.means_ = _means(rows, shares, texts=self.text_weights_)
            scatter = np.zeros((rows.shape[1],) * 2)
            for share, mean in zip(shares.T, self.means_, strict=True):
                away = rows - mean
                scatter += (share[:, None] * away).T @ away
            self.precision_ = shrunk_precision(scatter, rows=len(rows), divisor=len(rows))
            self.priors_ = self._priors(shares)
            self._discriminate()
            shares = softmax(self.discriminant(rows), axis=1)
        return self._weigh(validation)

    @checked
    def extend(
        self,
        X: Rows | Tensor,
        *,
        text_weights: Float[np.ndarray, "c d"] | Tensor,
        classes: Sequence[object] | np.ndarray,
        k: Count = 64,
        text_copies: Whole = 16,
    ) -> GDAClassifier:
        """A classifier of further classes that have no images, from the embeddings that lie nearest to their texts.

        It tells these classes from each other, with the alpha of this one; priors are uniform.

        Args:
            X: (n, d) embeddings to look in, of any classes: the paper takes those that this one was fitted on.
            text_weights: (c, d) text embedding of each further class.
            classes: their names.
            k: nearest embeddings of each text; all, with a warning, where there are fewer.
            text_copies: how often the text counts beside them in the mean.

        Raises:
            InputError: rows of another width, or classes that do not fit the texts.
        """
        check_is_fitted(self, "coef_")
        rows, found = self._seen(X), clone(self).set_params(priors="uniform")
        found.n_features_in_ = self.n_features_in_
        found._name(text_weights, classes)
        if len(rows) < k:
            warnings.warn(f"extend: {len(rows)} rows are fewer than k = {k}, so all are taken", stacklevel=2)
        k = min(k, len(rows))
        means, precisions = [], []
        for text in found.text_weights_:
            near = rows[np.argsort(-(rows @ text), kind="stable")[:k]]
            away = near - text
            means.append((near.sum(axis=0) + text_copies * text) / (k + text_copies))
            precisions.append(shrunk_precision(away.T @ away, rows=k, divisor=k - 1))
        found.means_, found.precision_ = np.stack(means), np.mean(precisions, axis=0)
        found.priors_ = np.full(len(means), 1 / len(means))
        found._discriminate()
        found.alpha_, found.validation_accuracy_ = self.alpha_, np.empty(0)
        return found

    def discriminant(self, X: Rows | Tensor) -> Float[np.ndarray, "n c"]:
        """``x W + b``, what the Gaussians alone say of each row."""
        return self._seen(X) @ self.coef_.T + self.intercept_

    def _added(self, rows: Rows) -> Float[np.ndarray, "n c"]:
        return self.alpha_ * (rows @ self.coef_.T + self.intercept_)

    def _name(self, text_weights: object, classes: Sequence[object] | np.ndarray | None) -> None:
        """Take texts and names that come without labels."""
        given = np.arange(len(cast(Sequence[object], text_weights))) if classes is None else np.asarray(classes)
        if len(given) < 2 or len(np.unique(given)) < len(given):
            raise InputError(f"classes: expected at least two different classes, got {given.tolist()}")
        self.classes_, self.text_weights_ = given, self._texts(text_weights, classes=len(given))

    def _discriminate(self) -> None:
        self.coef_ = self.means_ @ self.precision_  # which is symmetric
        self.intercept_ = np.log(self.priors_) - (self.coef_ * self.means_).sum(axis=1) / 2

    def _priors(self, shares: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " c"]:
        count = shares.shape[1]
        if isinstance(self.priors, str):
            if self.priors == "uniform":
                return np.full(count, 1 / count)
            return np.maximum(shares.mean(axis=0), np.finfo(float).tiny)
        if len(self.priors) != count:
            raise InputError(f"priors: expected a number for each of {count} classes, got {list(self.priors)}")
        return np.asarray(self.priors, dtype=np.float64) / np.sum(self.priors)

    def _search_is_possible(self, validation: Labelled | None) -> None:
        if self.alpha == "search" and validation is None:
            raise InputError("alpha: expected validation=(X, y) for 'search', got none; or a number")

    def _weigh(self, validation: Labelled | None) -> GDAClassifier:
        """Choose alpha."""
        if not isinstance(self.alpha, str):
            self.alpha_, self.validation_accuracy_ = float(self.alpha), np.empty(0)
            return self
        assert validation is not None
        rows, codes = self._labelled(validation, name="validation")
        plain, learnt = self._zero_shot(rows), rows @ self.coef_.T + self.intercept_
        grid = np.sort(np.asarray(self.alphas, dtype=np.float64))
        self.validation_accuracy_ = np.array([accuracy(plain + alpha * learnt, codes) for alpha in grid])
        best = int(self.validation_accuracy_.argmax())  # the first of equals
        self.alpha_ = float(grid[best]) if self.validation_accuracy_[best] > 0 else _NO_ALPHA_HELPS
        return self


def shrunk_precision(scatter: Float[np.ndarray, "d d"], *, rows: int, divisor: int) -> Float[np.ndarray, "d d"]:
    """Kubokawa and Srivastava's shrunk inverse of the covariance ``S = scatter / divisor``.

    It is ``d ((rows - 1) S + tr(S) I)^-1``, and the identity where nothing scatters.
    """
    width, trace = len(scatter), float(np.trace(scatter))
    if divisor < 1 or trace <= _FLAT * rows:
        return np.eye(width)
    return width * np.linalg.inv(((rows - 1) * scatter + trace * np.eye(width)) / divisor)


def _mean_class_precision(classes: Sequence[np.ndarray]) -> Float[np.ndarray, "d d"]:
    """The pseudo-inverse of the mean of the classes' own covariances; those of one row have none."""
    found = [np.cov(rows, rowvar=False) for rows in classes if len(rows) > 1]
    width = classes[0].shape[1]
    mean = np.mean(found, axis=0).reshape(width, width) if found else np.zeros((width, width))
    if np.trace(mean) <= _FLAT:
        return np.eye(width)
    return np.linalg.pinv(mean, rcond=width * np.finfo(float).eps, hermitian=True)


def _means(
    rows: Rows, shares: Float[np.ndarray, "n c"], *, texts: Float[np.ndarray, "c d"]
) -> Float[np.ndarray, "c d"]:
    """Mean of the rows of each class by their shares in it; its text where there are none."""
    total = shares.sum(axis=0)[:, None]
    return np.where(total > 0, shares.T @ rows / np.maximum(total, np.finfo(float).tiny), texts)
