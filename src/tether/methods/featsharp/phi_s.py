"""PHI-S: features turned and scaled so that every channel has a variance of one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.space.serialisation import FittedState
from tether.space.validation import checked_rows


class PhiS(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FittedState):
    """Turns rows so that all their channels have a variance of one, and scales all of them by one number.

    Distances keep their ratios, unlike after whitening: it is a rotation, a Hadamard matrix behind the principal
    directions, which spreads the variance evenly. Signs and order of principal directions are arbitrary, so compare no
    single channel of two fits.

    Source: PHI-S (arXiv 2410.01680) as FeatSharp (2502.16025) has it, released code.

    Attributes:
        mean_: (d,) of the rows.
        alpha_: one over the root of the mean variance of a channel.
        rotation_: (d, d) the rotation; ``transform`` is ``alpha_ * (X - mean_) @ rotation_.T``.
        n_features_in_: d, for which there must be a Hadamard matrix, see ``hadamard``.

    Example:
        >>> import numpy as np
        >>> from tether.methods.featsharp.phi_s import PhiS
        >>> rows = np.random.default_rng(0).normal(size=(500, 4)) * [1, 5, 0.1, 2] + 3
        >>> phi = PhiS().fit(rows)
        >>> np.round(np.cov(phi.transform(rows).T).diagonal(), 6).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> bool(np.allclose(phi.inverse_transform(phi.transform(rows)), rows))
        True
    """

    n_features_in_: int
    _format = "tether-phi-s-1"
    _state = ("mean_", "alpha_", "rotation_")

    def fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> PhiS:
        """Learn mean, scale and rotation from rows at once; ``y`` is ignored.

        Raises:
            InputError: a width without a Hadamard matrix, or rows that are all alike.
        """
        for name in ("_scatter", "_count"):
            vars(self).pop(name, None)
        return self.partial_fit(X)

    def partial_fit(self, X: Float[np.ndarray, "n d"], y: object = None) -> PhiS:
        """Learn from more rows; those of calls before still count. Two rows at least by the first call's end."""
        first = not hasattr(self, "_count")
        X = validate_data(self, X, dtype=np.float64, reset=first, ensure_min_samples=2 if first else 1)
        turn = hadamard(X.shape[1])
        count, mean = len(X), X.mean(axis=0)
        centred = X - mean
        scatter = centred.T @ centred
        if not first:
            total, apart = self._count + count, mean - self.mean_
            scatter += self._scatter + np.outer(apart, apart) * (self._count * count / total)
            mean, count = self.mean_ + apart * (count / total), total
        self._scatter, self._count = scatter, count
        values, vectors = np.linalg.eigh(scatter / (count - 1))
        variance = np.maximum(values, 0.0).mean()
        if variance <= 0:
            raise InputError("PHI-S: expected rows that differ, got the same row each time")
        self.mean_, self.alpha_, self.rotation_ = mean, float(variance**-0.5), turn @ vectors.T
        return self

    def transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Rows whose channels have a variance of one, float64."""
        check_is_fitted(self, "rotation_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.alpha_ * (X - self.mean_) @ self.rotation_.T

    def inverse_transform(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Rows as they were."""
        check_is_fitted(self, "rotation_")
        rows = checked_rows(X, name="X", least=0, width=len(self.rotation_), zeros=True)
        return rows @ self.rotation_ / self.alpha_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return len(self.rotation_)


@checked
def hadamard(size: Count) -> Float[np.ndarray, "n n"]:
    """A Hadamard matrix, divided by the length of its rows, so that it is orthogonal and all entries are as large.

    Sylvester's for powers of 2; else Sylvester's times the smallest of Paley's that will do: of q + 1 for a prime q
    with a remainder of 3 by 4, or of 2 (q + 1) for one with 1.

    Raises:
        InputError: no such matrix; it names the next size that has one.

    Example:
        >>> from tether.methods.featsharp.phi_s import hadamard
        >>> (2 * hadamard(4)).tolist()
        [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]
    """
    core = _core(size)
    if core is None:
        after = next(other for other in range(size + 1, 4 * size + 1) if _core(other) is not None)
        raise InputError(f"no Hadamard matrix of {size} channels is known here; the next size is {after}")
    made = np.ones((1, 1)) if core == 1 else _paley(core)
    for _ in range((size // core).bit_length() - 1):
        made = np.kron([[1, 1], [1, -1]], made)
    return made / size**0.5


def _core(size: int) -> int | None:
    """The smallest factor of the size that Paley's construction gives and whose cofactor is a power of 2."""
    if size & (size - 1) == 0:
        return 1
    core = size // (size & -size)
    while core <= size:
        if core % 4 == 0 and (_prime(core - 1) or (_prime(core // 2 - 1) and (core // 2 - 1) % 4 == 1)):
            return core
        core *= 2
    return None


def _prime(number: int) -> bool:
    return number > 1 and all(number % other for other in range(2, int(number**0.5) + 1))


def _paley(size: int) -> Float[np.ndarray, "n n"]:
    q = size - 1 if _prime(size - 1) else size // 2 - 1
    squares = {number * number % q for number in range(1, q)}
    kind = np.array([0, *(1 if number in squares else -1 for number in range(1, q))])
    between = kind[(np.arange(q)[:, None] - np.arange(q)[None]) % q]
    if size == q + 1:  # q + 1 is a multiple of 4, so between is skew
        edge = np.block([[np.zeros((1, 1)), np.ones((1, q))], [-np.ones((q, 1)), between]])
        return edge + np.eye(size)
    edge = np.block([[np.zeros((1, 1)), np.ones((1, q))], [np.ones((q, 1)), between]])
    return np.kron(edge, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])
