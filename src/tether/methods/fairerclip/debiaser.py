"""Zero-shot prediction without a shortcut: one kernel map for images and one for texts (arXiv 2403.15593)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, NonNegative, Positive, check_values
from tether.core.state_file import read_state, write_state
from tether.methods.fairerclip.hsic import RandomFeatures, plus_minus
from tether.methods.fairerclip.solver import FairerKernels, Solver, SolverSettings, cosines

_FORMAT = "tether-fairer-clip-2"
_ARRAYS = (
    "image_weights",
    "image_offsets",
    "image_map",
    "image_mean",
    "text_weights",
    "text_offsets",
    "text_map",
    "text_features",
)


class FairerClip(ClassifierMixin, BaseEstimator):
    """Codes for images and class texts that depend on the class, agree with each other, and ignore an attribute.

    Three closed-form solves, no gradient steps. It can only take out what the embeddings show: where the attribute is
    not visible in them, or the class is visible through nothing else, nothing is gained. ``s`` may be a guess, such as
    the zero-shot prediction of the attribute (the paper does so).

    Source: arXiv 2403.15593 and its released build_kernel.py and base.py. It differs in
    that eigenproblems are solved symmetrically in float64, an attribute that is the same everywhere drops its term
    with a warning, signs are fixed by the labels, and only columns that are kept decide whether a map is turned.

    Args:
        n_features: random features of embeddings, 1000 to 4000 in the paper; memory is their square.
        n_code_features: random features of codes.
        dim: columns of a code; None takes one less than there are classes: 1 for two, as in every released setting.
        tau_image: weights of the attribute and of agreement, image side.
        tau_text: the same for the text side.
        gamma: ridges of both sides, images first.
        n_iter: rounds of text and image solve after the first image solve.
        sigma: width of the kernels of embeddings and codes, or ``median`` of the distances.
        centre: what prediction compares. ``none`` takes codes as they are, as released; they carry an offset that is
            drawn with the random features, and with few of these it favours one class. ``images`` takes the mean code
            of the training images off both sides.
        max_samples: fit on so many rows, drawn at random; None takes all.
        kernels: random features to use instead of drawing them.
        random_state: seed or generator of all draws.

    Attributes:
        classes_: (c,) the classes.
        image_map_: (r, k) of the image side's features.
        text_map_: (r, k) of the text side's.
        image_mean_: (k,) mean code of the training images.
        kernels_: the random features.
        text_features_: (c, d) text embedding of each class.
        solves_: every solve in order; empty after ``load``.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from tether.methods.fairerclip import FairerClip
        >>> rng = np.random.default_rng(0)
        >>> y, s = rng.integers(0, 2, (2, 200))  # class and attribute of each image
        >>> X = rng.normal(size=(200, 16)) * 0.3  # embeddings of the images
        >>> X[:, 0], X[:, 1] = 2 * y - 1, 2 * s - 1
        >>> fair = FairerClip(n_features=100, n_code_features=100, centre="images", random_state=0).fit(X, y, s=s)
        >>> bool((fair.predict(X) == y).mean() > 0.9)
        True
    """

    n_features_in_: int

    def __init__(
        self,
        *,
        n_features: Count = 1000,
        n_code_features: Count = 1000,
        dim: Count | None = None,
        tau_image: tuple[Decay, Decay] = (0.7, 0.7),
        tau_text: tuple[Decay, Decay] = (0.1, 0.1),
        gamma: tuple[NonNegative, NonNegative] = (3e-4, 2e-4),
        n_iter: Count = 1,
        sigma: Positive | Literal["median"] = "median",
        centre: Literal["none", "images"] = "none",
        max_samples: Count | None = None,
        kernels: FairerKernels | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.n_features = n_features
        self.n_code_features = n_code_features
        self.dim = dim
        self.tau_image = tau_image
        self.tau_text = tau_text
        self.gamma = gamma
        self.n_iter = n_iter
        self.sigma: float | Literal["median"] = sigma
        self.centre: Literal["none", "images"] = centre
        self.max_samples = max_samples
        self.kernels = kernels
        self.random_state = random_state

    def fit(
        self,
        X: Float[np.ndarray, "n d"],
        y: Sequence[object] | np.ndarray,
        *,
        s: Sequence[object] | np.ndarray | None = None,
        text_features: Float[np.ndarray, "c d"] | None = None,
    ) -> FairerClip:
        """Learn both maps from labelled images.

        Args:
            X: (n, d) image embeddings.
            y: (n,) class of each.
            s: (n,) value of the attribute that shall not matter; None fits without that term.
            text_features: (c, d) text embedding of each class, in the order of the sorted classes; None lets the mean
                image of each class stand in.

        Raises:
            ValueError: NaN or infinity, or shapes that scikit-learn refuses.
            InputError: fewer than two classes, or a setting out of its range.

        Warns:
            UserWarning: the attribute is the same for all rows.
        """
        check_values(type(self).__init__, vars(self))
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return self._fit(X, codes, s, text_features, labels="given")

    def fit_unlabelled(
        self,
        X: Float[np.ndarray, "n d"],
        *,
        text_features: Float[np.ndarray, "c d"],
        s: Sequence[object] | np.ndarray | None = None,
        start: Int[np.ndarray, " n"] | None = None,
    ) -> FairerClip:
        """Learn both maps from pseudo-labels: zero-shot at first, from the second round on those of the current codes.

        The released settings take ``n_iter`` 2 to 4 here. Classes are numbered 0 to c - 1.

        Args:
            X: (n, d) image embeddings.
            text_features: (c, d) text embedding of each class.
            s: (n,) value of the attribute that shall not matter.
            start: (n,) number of each row's class to begin with; None takes the nearest text.

        Raises:
            ValueError: NaN or infinity, or shapes that scikit-learn refuses.
            InputError: fewer than two classes, pseudo-labels of one class only, or a setting out of its range.
        """
        check_values(type(self).__init__, vars(self))
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        text = _rows(text_features, width=X.shape[1])
        self.classes_ = np.arange(len(text))
        codes = cosines(X, text).argmax(axis=1) if start is None else np.asarray(start)
        if codes.shape != (len(X),) or not np.isin(codes, self.classes_).all():
            raise InputError(f"start: expected {len(X)} numbers from 0 to {len(text) - 1}")
        return self._fit(X, codes, s, text, labels="pseudo")

    def transform_image(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Codes of image embeddings."""
        check_is_fitted(self, "image_map_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.kernels_.image(X) @ self.image_map_

    def transform_text(self, text_features: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m k"]:
        """Codes of text embeddings."""
        check_is_fitted(self, "text_map_")
        return self.kernels_.text(_rows(text_features, width=self.n_features_in_)) @ self.text_map_

    def decision_function(self, X: Float[np.ndarray, "n d"]) -> np.ndarray:
        """Cosine of each image's code with each class text's, (n, c); for two classes their difference, (n,)."""
        offset = self.image_mean_ if self.centre == "images" else 0.0
        scores = cosines(self.transform_image(X) - offset, self.transform_text(self.text_features_) - offset)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Float[np.ndarray, "n d"]) -> np.ndarray:
        """The class whose text code is nearest to each image's; ties go to the first."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def save(self, path: Path | str) -> None:
        """Write settings, random features and maps to one safetensors file, atomically.

        Raises:
            InputError: classes that are neither words nor numbers.
        """
        check_is_fitted(self, "image_map_")
        if self.classes_.dtype.kind not in "iufbU":
            raise InputError(f"save: expected classes that are words or numbers, got {self.classes_.dtype}")
        settings = self.get_params() | {"kernels": None}
        if not isinstance(settings["random_state"], int):
            settings["random_state"] = None
        values = (
            self.kernels_.image.weights,
            self.kernels_.image.offsets,
            self.image_map_,
            self.image_mean_,
            self.kernels_.text.weights,
            self.kernels_.text.offsets,
            self.text_map_,
            self.text_features_,
        )
        settings["classes"] = {"dtype": self.classes_.dtype.str, "values": self.classes_.tolist()}
        write_state(path, format=_FORMAT, settings=settings, arrays=dict(zip(_ARRAYS, values, strict=True)))

    @classmethod
    def load(cls, path: Path | str) -> FairerClip:
        """Read what ``save`` wrote, ready to transform and predict; nothing is unpickled."""
        settings, arrays = read_state(path, what="FairerClip", format=_FORMAT, arrays=frozenset(_ARRAYS))
        classes = settings.pop("classes")
        settings |= {name: tuple(settings[name]) for name in ("tau_image", "tau_text", "gamma")}
        fitted = cls(**settings)
        fitted.classes_ = np.array(classes["values"], dtype=classes["dtype"])
        image = RandomFeatures(arrays["image_weights"], arrays["image_offsets"])
        text = RandomFeatures(arrays["text_weights"], arrays["text_offsets"])
        none = RandomFeatures(np.empty((0, arrays["image_map"].shape[1])), np.empty(0))  # only fitting needs those
        fitted.kernels_ = FairerKernels(image, text, none, none)
        fitted.image_map_, fitted.text_map_ = arrays["image_map"], arrays["text_map"]
        fitted.image_mean_ = arrays["image_mean"]
        fitted.text_features_ = arrays["text_features"]
        fitted.n_features_in_ = image.weights.shape[1]
        fitted.solves_ = ()
        return fitted

    def _fit(
        self,
        X: np.ndarray,
        codes: np.ndarray,
        s: Sequence[object] | np.ndarray | None,
        text_features: np.ndarray | None,
        *,
        labels: Literal["given", "pseudo"],
    ) -> FairerClip:
        classes = len(self.classes_)
        if classes < 2:
            raise InputError(f"y: expected at least two classes, got {classes} class")
        if self.max_samples is not None and self.max_samples < classes:
            raise InputError(f"max_samples: expected at least the {classes} classes, got {self.max_samples}")
        rng = check_random_state(self.random_state)
        shortcut = None if s is None else np.asarray(s)
        if shortcut is not None and shortcut.shape != (len(X),):
            raise InputError(f"s: expected one value for each of {len(X)} rows, got shape {shortcut.shape}")
        if text_features is None:
            text = np.stack([X[codes == c].mean(axis=0) for c in range(classes)])
        else:
            text = _rows(text_features, width=X.shape[1])
            if len(text) != classes:
                raise InputError(f"text_features: expected one row for each of {classes} classes, got {len(text)}")
        if self.max_samples is not None and self.max_samples < len(X):
            some = np.sort(rng.choice(len(X), self.max_samples, replace=False))
            X, codes = X[some], codes[some]
            shortcut = None if shortcut is None else shortcut[some]
        self.text_features_ = text
        settings = SolverSettings(
            self.n_features,
            self.n_code_features,
            classes - 1 if self.dim is None else self.dim,
            {"image": self.tau_image, "text": self.tau_text},
            dict(zip(("image", "text"), self.gamma, strict=True)),
            self.sigma,
            self.kernels,
        )
        solver = Solver(settings, X=X, text=text, attribute=_attribute(shortcut), rng=rng)
        solver.solve("image", codes, other=None)
        for number in range(self.n_iter):
            if number and labels == "pseudo":
                offset = solver.codes["image"].mean(axis=0) if self.centre == "images" else 0.0  # as predict does
                codes = cosines(solver.codes["image"] - offset, solver.class_codes() - offset).argmax(axis=1)
            solver.solve("text", codes, other=solver.codes["image"])
            solver.solve("image", codes, other=solver.codes["text"])
        self.kernels_ = FairerKernels(
            solver.features["image"], solver.features["text"], solver.seen["image"], solver.seen["text"]
        )
        self.image_map_, self.text_map_ = solver.maps["image"], solver.maps["text"]
        self.image_mean_ = solver.codes["image"].mean(axis=0)
        self.solves_ = tuple(solver.solves)
        return self


def _attribute(s: np.ndarray | None) -> np.ndarray | None:
    if s is None:
        return None
    values, codes = np.unique(s, return_inverse=True)
    if len(values) < 2:
        warnings.warn("s is the same for all rows, so its term is dropped", stacklevel=4)
        return None
    return plus_minus(codes, classes=len(values))


def _rows(values: np.ndarray, *, width: int) -> Float[np.ndarray, "c d"]:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise InputError(f"text_features: expected rows of {width} numbers, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise InputError("text_features: NaN or infinity")
    return rows
