"""What classifiers have in common that add what a few images teach to what the class texts say."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import check_values
from tether.core.state_file import check_encoder, known_digest, read_state, wide_array, write_state
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.image_digest import image_digest
from tether.models.towers.clip import Clip
from tether.space.validation import checked_rows, checked_unit_rows, unit_rows

LOGIT_SCALE = 100.0  # of the released CLIP models, which the grids of these methods are made for
Rows = Float[np.ndarray, "n d"]
Labelled = tuple[Float[np.ndarray, "m d"] | Tensor, Sequence[object] | np.ndarray]
"""(m, d) embeddings and the (m,) class of each."""
Head = TypeVar("Head", bound="TextGuidedClassifier")


class TextGuidedClassifier(ClassifierMixin, BaseEstimator, abc.ABC):
    """Logits of a class: ``logit_scale`` times the cosine with its text, and what images add to that.

    Subclasses name their file and what ``fit`` finds, and say what is added; all rows are scaled to length 1.

    Attributes:
        classes_: (c,) the classes.
        text_weights_: (c, d) unit row of each class.
        n_features_in_: d.
    """

    _format: ClassVar[str]
    _state: ClassVar[tuple[str, ...]]
    logit_scale: float
    digest: str | None
    n_features_in_: int
    classes_: np.ndarray
    text_weights_: Float[np.ndarray, "c d"]

    @classmethod
    def for_encoder(cls: type[Head], model: DualEncoder, **settings: Any) -> Head:
        """A classifier of a model's image embeddings, with the model's own logit scale and its image side's digest.

        Args:
            model: any that ``tether.load`` gives; it is not kept.
            settings: of the classifier.

        Raises:
            UnsupportedModelError: the model does not compare by cosine.
        """
        name = geometry_of(model).name
        if name != "clip":
            raise UnsupportedModelError(f"{cls.__name__}: expected a model that compares by cosine, got {name!r}")
        assert isinstance(model, Clip | WrappedEncoder)
        return cls(**{"logit_scale": float(model.logit_scale.detach()), "digest": image_digest(model), **settings})

    def zero_shot(self, X: Rows | Tensor) -> Float[np.ndarray, "n c"]:
        """What the texts alone say: ``logit_scale`` times the cosine of each row with each class."""
        return self._zero_shot(self._seen(X))

    def logits(self, X: Rows | Tensor) -> Float[np.ndarray, "n c"]:
        """Zero-shot logits and what images add to them."""
        rows = self._seen(X)
        return self._zero_shot(rows) + self._added(rows)

    def decision_function(self, X: Rows | Tensor) -> np.ndarray:
        """``logits``; for two classes the second's less the first's, (n,), as scikit-learn has it."""
        found = self.logits(X)
        return found if found.shape[1] > 2 else found[:, 1] - found[:, 0]

    def predict_proba(self, X: Rows | Tensor) -> Float[np.ndarray, "n c"]:
        """Softmax of the logits; no more than an order until it is calibrated."""
        return softmax(self.logits(X), axis=1)

    def predict(self, X: Rows | Tensor) -> np.ndarray:
        """The likeliest class of each row; ties go to the first."""
        found = self.decision_function(X)
        return self.classes_[(found > 0).astype(int) if found.ndim == 1 else found.argmax(axis=1)]

    def save(self, path: Path | str) -> None:
        """Write settings, classes and state to one safetensors file, atomically.

        Raises:
            InputError: ``digest`` was not given, or classes that are neither words nor numbers.
        """
        check_is_fitted(self, "text_weights_")
        known_digest(self.digest)
        if self.classes_.dtype.kind not in "iufbU":
            raise InputError(f"save: expected classes that are words or numbers, got {self.classes_.dtype}")
        classes = {"dtype": self.classes_.dtype.str, "values": self.classes_.tolist()}
        arrays = {name: getattr(self, name) for name in self._state}
        write_state(path, format=self._format, settings={"own": self.get_params(), "classes": classes}, arrays=arrays)

    @classmethod
    def load(
        cls: type[Head], path: Path | str, *, encoder: DualEncoder | None = None, digest: str | None = None
    ) -> Head:
        """Read what ``save`` wrote, for the encoder that it was fitted on.

        Args:
            path: the file.
            encoder: the model whose embeddings it will see; or else
            digest: of its image side, see ``models.features.image_digest.image_digest``.

        Raises:
            InputError: no such file, not one of this class, or another encoder than it was fitted on.
        """
        settings, arrays = read_state(path, what=cls.__name__, format=cls._format, arrays=frozenset(cls._state))
        found = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings["own"].items()})
        if encoder is not None and digest is None:
            encoder, digest = None, image_digest(encoder)
        check_encoder(path, recorded=settings["own"]["digest"], encoder=encoder, digest=digest)
        found.classes_ = np.array(settings["classes"]["values"], dtype=settings["classes"]["dtype"])
        for name in cls._state:
            setattr(found, name, arrays[name] if arrays[name].ndim else arrays[name].item())
        found.n_features_in_ = found.text_weights_.shape[1]
        return found

    @abc.abstractmethod
    def _added(self, rows: Rows) -> Float[np.ndarray, "n c"]:
        """What images add to the zero-shot logits of unit rows."""

    def _zero_shot(self, rows: Rows) -> Float[np.ndarray, "n c"]:
        return self.logit_scale * (rows @ self.text_weights_.T)

    def _seen(self, X: Rows | Tensor) -> Rows:
        """Unit rows of embeddings to be judged."""
        check_is_fitted(self, "text_weights_")
        return checked_unit_rows(validate_data(self, as_array(X), dtype=np.float64, reset=False), name="X")

    def _begin(
        self,
        X: Rows | Tensor,
        y: Sequence[object] | np.ndarray,
        *,
        text_weights: Float[np.ndarray, "c d"] | Tensor | None,
        classes: Sequence[object] | np.ndarray | None,
    ) -> tuple[Rows, Int[np.ndarray, " n"]]:
        """Check what ``fit`` is given, and learn classes and texts; gives unit rows and the place of each class."""
        check_values(type(self).__init__, vars(self))
        X, y = validate_data(self, as_array(X), y, dtype=np.float64)
        check_classification_targets(y)
        names = np.unique(y) if classes is None else np.asarray(classes)
        if len(names) < 2 or len(np.unique(names)) < len(names):
            raise InputError(f"y: expected at least two different classes, got {len(names)} class names: {names}")
        self.classes_ = names
        rows, codes = checked_unit_rows(X, name="X"), self._codes(y, where="y")
        empty = np.flatnonzero(np.bincount(codes, minlength=len(names)) == 0)
        if len(empty):
            raise InputError(f"y: class {names.tolist()[empty[0]]!r} has no image; expected at least one of each class")
        if text_weights is None:
            text_weights = np.stack([rows[codes == c].mean(axis=0) for c in range(len(names))])
        self.text_weights_ = self._texts(text_weights, classes=len(names))
        return rows, codes

    def _labelled(self, given: Labelled, *, name: str) -> tuple[Rows, Int[np.ndarray, " n"]]:
        """Unit rows and the places of their classes of further rows, such as those for validation."""
        X, y = given
        rows = unit_rows(checked_rows(as_array(X), name=name, least=1, width=self.n_features_in_))
        if len(y) != len(rows):
            raise InputError(f"{name}: expected a class for each of {len(rows)} rows, got {len(y)}")
        return rows, self._codes(np.asarray(y), where=f"{name}: y")

    def _texts(self, given: Any, *, classes: int) -> Float[np.ndarray, "c d"]:
        rows = checked_rows(as_array(given), name="text_weights", least=1, width=self.n_features_in_)
        if len(rows) != classes:
            raise InputError(f"text_weights: expected one row for each of {classes} classes, got {len(rows)}")
        return unit_rows(rows)

    def _codes(self, y: np.ndarray, *, where: str) -> Int[np.ndarray, " n"]:
        order = np.argsort(self.classes_, kind="stable")
        places = order[np.searchsorted(self.classes_, y, sorter=order).clip(max=len(order) - 1)]
        strange = np.flatnonzero(self.classes_[places] != y)
        if len(strange):
            row, known = strange[0], ", ".join(map(str, self.classes_[:8].tolist()))
            raise InputError(
                f"{where}: row {row}: {y.tolist()[row]!r} is none of the {len(order)} classes ({known}, ...)"
            )
        return places


def as_array(X: Any) -> Any:
    """Embeddings as scikit-learn takes them; tensors of any precision and device become arrays."""
    return wide_array(X) if isinstance(X, Tensor) else X


def accuracy(logits: Float[np.ndarray, "n c"], codes: Int[np.ndarray, " n"]) -> float:
    """Share of rows whose class has the highest logit; ties go to the first."""
    return float(cast(np.ndarray, logits.argmax(axis=1) == codes).mean())
