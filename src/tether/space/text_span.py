"""What a head writes, in words: a greedy basis of texts for its contributions (arXiv 2310.05916)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import Count, check_values
from tether.space.validation import checked_rows

RANK = 80
"""Released code: how many directions of a head are kept; a head of fewer channels has no more."""
COUNT = 20
"""Released README: texts for each head."""
EXHAUSTED = 1e-6
"""Once the widest text spreads the rest by less than this fraction of the first one's spread, only noise is left."""


class TextSpan(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Explains embeddings, such as one head's contributions, by a few texts: the greedy choice that spreads them most.

    Texts are first projected on the main directions of the uncentred rows. Then, again and again, the text along which
    the centred rows vary most is taken, and its direction is removed from the rows and from all other texts. Neither is
    normalised after that, so a text of which little is left is not taken. A text that is there twice does no harm: its
    copy becomes zero.

    Fewer than ``count`` texts are chosen where the rows or the texts have no direction left.

    Source: arXiv 2310.05916, algorithm 1, and its released compute_complete_text_set.py. It differs in that directions
    beyond the rank of the rows, which are rounding errors, are never used.

    Args:
        texts: (t, d) unit text embeddings; None takes the coordinate axes, for a first look without a text tower.
        count: most texts that are chosen.
        rank: directions of the rows that texts are projected on; no more than the rows have are used.

    Attributes:
        chosen_: (m,) indices of the texts, in the order they were taken.
        components_: (m, d) their directions, orthonormal: what was left of each when it was taken.
        mean_: (d,) of the rows.
        explained_: (m,) fraction of the rows' variance that the texts up to here explain, rising, at most 1.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from tether.space import TextSpan
        >>> words = ["star", "ring", "moon", "sand"]
        >>> texts = np.eye(4)  # their unit embeddings
        >>> rows = np.random.default_rng(0).normal(size=(100, 4)) * [0.1, 3.0, 0.2, 1.0]  # contributions of one head
        >>> span = TextSpan(texts=texts, count=2).fit(rows)
        >>> [words[index] for index in span.chosen_]
        ['ring', 'sand']
    """

    n_features_in_: int

    def __init__(
        self, *, texts: Float[np.ndarray, "t d"] | None = None, count: Count = COUNT, rank: Count = RANK
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.texts = texts
        self.count = count
        self.rank = rank

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> Self:
        """Choose texts for (n, d) rows; ``y`` is ignored."""
        check_values(type(self).__init__, vars(self))
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        differ, precision = varies(X), np.finfo(X.dtype).eps
        X = X.astype(np.float64)
        texts = self._checked_texts(X.shape[1])
        mean = X.mean(axis=0)
        rest = X - mean
        total = np.sum(rest**2)
        if not differ:
            raise InputError(f"all {len(X)} rows are equal (n_samples={len(X)}): there is no variance to explain")
        _, sizes, directions = np.linalg.svd(X, full_matrices=False)
        own = int((sizes > sizes[0] * max(X.shape) * precision).sum())  # beyond these there is only rounding
        directions = directions[: min(self.rank, own)]
        texts = texts @ directions.T @ directions
        chosen, components, explained, first = [], [], [], 0.0
        for _ in range(self.count):
            spread = (rest @ texts.T).std(axis=0)
            widest = int(spread.argmax())
            first = first or float(spread[widest])
            if not spread[widest] > EXHAUSTED * first:
                break
            direction = texts[widest] / np.linalg.norm(texts[widest])
            rest = rest - np.outer(rest @ direction, direction)
            texts = texts - np.outer(texts @ direction, direction)
            chosen.append(widest)
            components.append(direction)
            explained.append(1 - np.sum(rest**2) / total)
        self.chosen_ = np.array(chosen, dtype=np.int64)
        self.components_ = np.array(components).reshape(len(chosen), X.shape[1])
        self.explained_ = np.array(explained)
        self.mean_ = mean
        return self

    def transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n m"]:
        """How much of each chosen text's direction each row has beyond the mean."""
        check_is_fitted(self, "components_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_) @ self.components_.T

    def inverse_transform(self, X: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n d"]:
        """Rows made of the chosen texts alone: the mean and what ``transform`` gave."""
        check_is_fitted(self, "components_")
        amounts = checked_rows(X, name="X", least=0, width=len(self.components_), zeros=True)
        return amounts @ self.components_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def _checked_texts(self, width: int) -> np.ndarray:
        if self.texts is None:
            return np.eye(width)
        return checked_rows(self.texts, name="texts", least=1, width=width, zeros=True)


@dataclass(frozen=True, slots=True)
class SpannedRows:
    """Rows explained by texts.

    Attributes:
        indices: (m,) of the texts, in the order they were taken.
        reconstruction: (n, d) the rows as the mean and these texts alone make them.
        explained_variance: (m,) fraction of the variance that the texts up to here explain.
    """

    indices: Int[np.ndarray, " m"]
    reconstruction: Float[np.ndarray, "n d"]
    explained_variance: Float[np.ndarray, " m"]


def varies(rows: Float[np.ndarray, "n d"]) -> bool:
    """Whether the rows differ by more than the rounding of their type."""
    spread = np.sum((rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)) ** 2)
    return bool(spread > rows.size * (np.finfo(rows.dtype).eps * np.abs(rows).max()) ** 2)


def text_span(
    contributions: Float[np.ndarray, "n d"], *, texts: Float[np.ndarray, "t d"], count: int = COUNT, rank: int = RANK
) -> SpannedRows:
    """Choose texts for one head's contributions and say how well they do; see ``TextSpan``.

    Args:
        contributions: of the head to n images, such as ``decompose(...).heads[:, layer, head]``.
        texts: unit embeddings of t plain descriptions.
        count: most texts that are chosen.
        rank: directions of the contributions that texts are projected on.
    """
    span = TextSpan(texts=texts, count=count, rank=rank).fit(contributions)
    made = span.inverse_transform(span.transform(contributions))
    return SpannedRows(span.chosen_, made, span.explained_)
