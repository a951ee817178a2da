"""Do two clauses of a contract contradict each other, and how: centroids and an SVM on pairs (arXiv 1906.02121)."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from tether.core.errors import InputError
from tether.core.ranges import Positive, Whole, check_values
from tether.tasks.norms.encoders import norm_encoder
from tether.tasks.norms.pair_features import Combine, combined

NONE = 0
"""The label of clauses that do not contradict each other; every other one is a kind of conflict."""


class CentroidConflict(ClassifierMixin, BaseEstimator):
    """Conflict where a pair is nearer to the mean of conflicting pairs than to that of the others; a tie is none.

    Source: arXiv 1906.02121, section 4, and its released embeddings.py.

    Args:
        distance: ``euclidean`` or ``cosine``, which is 1 where a length is zero.
        mode: how two rows become one, see ``combined``.

    Attributes:
        classes_: 0 and 1.
        conflict_: (m,) mean of the combined pairs in conflict.
        other_: (m,) mean of those that are not.

    Example:
        >>> import numpy as np
        >>> from tether.methods.norm_conflicts import CentroidConflict
        >>> pairs = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])  # rows of two pairs of clauses
        >>> CentroidConflict().fit(pairs, [1, 0]).predict(pairs).tolist()
        [1, 0]
    """

    def __init__(self, distance: Literal["euclidean", "cosine"] = "euclidean", mode: Combine = "offset") -> None:
        """See the class; values are checked by ``fit``."""
        self.mode = mode
        self.distance = distance

    def fit(self, X: Float[np.ndarray, "n two d"], y: Int[np.ndarray, " n"]) -> CentroidConflict:
        """Means of (n, 2, d) pairs; labels above 0 are all conflicts.

        Raises:
            InputError: pairs of another shape, or no pair of one of the two sides.
        """
        check_values(type(self).__init__, vars(self))
        rows, labels = _rows(X, self.mode), _labels(y, len(X))
        if not 0 < (labels > NONE).sum() < len(labels):
            raise InputError(f"labels: expected conflicts and others, got {len(labels)} of one of the two")
        self.classes_ = np.array([0, 1])
        self.conflict_, self.other_ = rows[labels > NONE].mean(axis=0), rows[labels == NONE].mean(axis=0)
        return self

    def distances(self, X: Float[np.ndarray, "n two d"]) -> Float[np.ndarray, "n two"]:
        """How far each pair is from the conflicts' mean and from the others'."""
        check_is_fitted(self, "conflict_")
        rows = _rows(X, self.mode)
        if rows.shape[1] != len(self.conflict_):
            raise InputError(f"pairs: expected rows of {len(self.conflict_)} numbers, got {rows.shape[1]}")
        return np.stack([self._distance(rows, centre) for centre in (self.conflict_, self.other_)], axis=1)

    def predict(self, X: Float[np.ndarray, "n two d"]) -> Int[np.ndarray, " n"]:
        """1 for a conflict."""
        found = self.distances(X)
        return (found[:, 0] < found[:, 1]).astype(np.int64)

    def _distance(self, rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
        if self.distance == "euclidean":
            return np.linalg.norm(rows - centre, axis=1)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(centre)
        return 1 - np.divide(rows @ centre, lengths, out=np.zeros(len(rows)), where=lengths > 0)


class ConflictClassifier(ClassifierMixin, BaseEstimator):
    """A linear SVM on pairs of rows or of texts: conflict or not, its kind, or both in one.

    Source: arXiv 1906.02121, section 4, and its released code: LinearSVC, C = 1, ``multi_class="crammer_singer"``.

    Args:
        encoder: of pairs of texts, see ``norm_encoder``; None takes pairs of rows.
        mode: how two rows become one, see ``combined``.
        head: another classifier of scikit-learn, made or its class; None is Crammer and Singer's SVM, as a class
            ``LinearSVC`` is.
        C: smaller is smoother.
        class_weight: None, as in the release, or ``balanced``.
        tol: of the solver.
        max_iter: of the solver.
        random_state: of the solver's order.

    Attributes:
        classes_: labels of the training pairs.

    Example:
        >>> import numpy as np
        >>> from tether.methods.norm_conflicts import ConflictClassifier
        >>> pairs = np.random.default_rng(0).normal(size=(20, 2, 4))  # rows of 20 pairs of clauses
        >>> labels = (pairs[:, 0, 0] > pairs[:, 1, 0]).astype(int)
        >>> ConflictClassifier(mode="offset").fit(pairs, labels).predict(pairs).shape
        (20,)
        >>> clauses = [("The bank shall pay.", "The bank may pay."), ("The bank shall pay.", "The bank must pay.")]
        >>> ConflictClassifier("tfidf", "offset").fit(clauses, [1, 0]).predict(clauses).tolist()
        [1, 0]
    """

    def __init__(
        self,
        encoder: Any = None,
        mode: Combine = "concat",
        head: Any = None,
        *,
        C: Positive = 1.0,
        class_weight: Literal["balanced"] | None = None,
        tol: Positive = 1e-4,
        max_iter: Whole = 10_000,
        random_state: Whole = 0,
    ) -> None:
        """See the class; values are checked by ``fit``."""
        self.encoder = encoder
        self.mode = mode
        self.head = head
        self.C = C
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Int[np.ndarray, " n"]) -> ConflictClassifier:
        """Learn from (n, 2, d) pairs of rows, or from n pairs of texts.

        Raises:
            InputError: pairs of another shape, labels below 0, or one label only.
        """
        from sklearn.svm import LinearSVC

        check_values(type(self).__init__, vars(self))
        if self.encoder is not None:
            self.encoder_ = norm_encoder(self.encoder).fit([text for pair in _texts(X) for text in pair])
        rows, labels = self._of(X), _labels(y, len(X))
        if len(np.unique(labels)) < 2:
            raise InputError(f"labels: expected two at least, all {len(labels)} are {labels[0]}")
        released = LinearSVC(
            C=self.C, multi_class="crammer_singer", class_weight=self.class_weight, tol=self.tol,
            max_iter=self.max_iter, random_state=self.random_state,
        )  # fmt: skip
        made = self.head() if isinstance(self.head, type) and self.head is not LinearSVC else self.head
        self.svm_: Any = (released if made in (None, LinearSVC) else clone(cast(BaseEstimator, made))).fit(rows, labels)
        self.classes_ = self.svm_.classes_
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """(n,) for two labels, above 0 for the second; (n, k) for more."""
        check_is_fitted(self, "svm_")
        return self.svm_.decision_function(self._of(X))

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """The label of each pair."""
        check_is_fitted(self, "svm_")
        return self.svm_.predict(self._of(X))

    def _of(self, X: Any) -> Any:
        if self.encoder is None:
            return _rows(X, self.mode)
        sides = [self.encoder_.encode(list(side)) for side in zip(*_texts(X), strict=True)]
        return combined(*sides, how=self.mode)


class PairFeatures(TransformerMixin, BaseEstimator):
    """``combined`` as a step of scikit-learn: (n, 2, d) pairs of rows to (n, m).

    Args:
        mode: how two rows become one, see ``combined``.

    Example:
        >>> import numpy as np
        >>> from tether.methods.norm_conflicts import PairFeatures
        >>> PairFeatures(mode="offset").fit_transform(np.array([[[1.0, 2.0], [3.0, 2.0]]])).tolist()
        [[-2.0, 0.0]]
    """

    def __init__(self, mode: Combine = "concat") -> None:
        """See the class; the mode is checked by ``transform``."""
        self.mode = mode

    def fit(self, X: Float[np.ndarray, "n two d"], y: object = None) -> PairFeatures:
        """Nothing is learnt."""
        return self

    def transform(self, X: Float[np.ndarray, "n two d"]) -> Float[np.ndarray, "n m"]:
        """One row a pair.

        Raises:
            InputError: pairs of another shape, or NaN.
        """
        return _rows(X, self.mode)


def _texts(pairs: Any) -> list[tuple[str, str]]:
    found = [tuple(pair) for pair in pairs]
    if not found or any(len(pair) != 2 or not all(isinstance(text, str) for text in pair) for pair in found):
        raise InputError(f"pairs: expected two texts each, got {found[:1]!r:.80}")
    return [(str(first), str(second)) for first, second in found]


def _rows(pairs: Any, how: Combine) -> Float[np.ndarray, "n m"]:
    found = np.asarray(pairs, dtype=np.float64)
    if found.ndim != 3 or found.shape[1] != 2 or not len(found):
        raise InputError(f"pairs: expected (n, 2, d) rows of two clauses each, got shape {found.shape}")
    if not np.isfinite(found).all():
        raise InputError("pairs: a row holds NaN or infinity")
    return combined(found[:, 0], found[:, 1], how=how)


def _labels(y: Any, n: int) -> Int[np.ndarray, " n"]:
    labels = np.asarray(y)
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < NONE:
        raise InputError(f"labels: expected {n} whole numbers from 0, got {labels.dtype} of shape {labels.shape}")
    return labels
