"""Scikit-learn estimators that are kept in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from tether.core.state_file import read_state, write_state


class FittedState(BaseEstimator):
    """A scikit-learn estimator with ``save`` and ``load``.

    Attributes:
        _format: what its file is, with a version.
        _state: the attributes that ``fit`` sets, arrays or numbers; the first has one entry for each feature.
    """

    _format: ClassVar[str]
    _state: ClassVar[tuple[str, ...]]

    def save(self, path: Path | str) -> None:
        """Write settings and state to one safetensors file, atomically; a generator's position is not kept."""
        check_is_fitted(self, self._state[0])
        settings = {
            name: None if isinstance(value, np.random.RandomState) else value
            for name, value in self.get_params().items()
        }
        write_state(path, format=self._format, settings=settings, arrays=self.state())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what ``save`` wrote; nothing is unpickled."""
        settings, arrays = read_state(path, what=cls.__name__, format=cls._format, arrays=frozenset(cls._state))
        return cls(**settings).restore(arrays)

    def state(self) -> dict[str, Any]:
        """What ``fit`` found, by name."""
        return {name: getattr(self, name) for name in sorted(self._state)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take over a fitted state, and return the estimator."""
        for name in self._state:
            setattr(self, name, arrays[name] if arrays[name].ndim else arrays[name].item())
        self.n_features_in_ = len(arrays[self._state[0]])
        return self
