"""One head for every set of norms: rows of texts by field, a scikit-learn classifier, a file bound to its encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder
from tether.core.ranges import Positive, Whole, checked
from tether.core.state_file import check_encoder, read_state, write_state
from tether.data.sets.norms.table import NormTable
from tether.tasks.norms.encoders import MINILM, NormEncoder, TfidfEncoder, norm_encoder
from tether.tasks.norms.pair_features import Combine, combined, joined

Head = Literal["svm", "logistic", "mlp"]
HIDDEN = 64
_FORMAT = "tether-norm-classifier-1"


class NormClassifier:
    """Says which label a row of a ``NormTable`` has, from its texts and, where asked, its numbers.

    Two fields are joined as ``combine`` says, one or more than two as they stand, side by side. Rare labels weigh as
    much as frequent ones, but in ``mlp``. What it says is what its training labels say: it knows no norm.

    Source: the shared head of arXiv 2305.17008, 2305.10731, 2310.14563 and 1906.02121; those fine-tune language models.

    Args:
        encoder: a name for ``norm_encoder``, a model, or an encoder.
        fields: names of the table's fields to read.
        combine: how two fields become one row, see ``combined``.
        head: ``svm`` (linear), ``logistic`` or ``mlp`` with one inner layer of 64.
        C: of svm and logistic: smaller is smoother.
        numbers: whether to read the table's numbers, each scaled by its deviation in training.
        seed: of the heads that draw.

    Attributes:
        classes_: labels seen in training, in the table's order; all that it can say.

    Example:
        >>> from tether.data.sets.norms import NormTable
        >>> from tether.tasks.norms import NormClassifier
        >>> texts = ("shout in the library", "read in the library", "shout in the stadium", "read in the park")
        >>> table = NormTable(
        ...     "mine", {"behaviour": texts}, ("taboo", "expected", "expected", "expected"), ("taboo", "expected"),
        ...     groups=("a", "b", "c", "d"), rows=(2, 3, 4, 5), judged="one person",
        ... )
        >>> NormClassifier("tfidf", fields=["behaviour"]).fit(table).predict(table)[0]
        'taboo'
    """

    @checked
    def __init__(
        self,
        encoder: Any = "tfidf",
        *,
        fields: Sequence[str],
        combine: Combine = "pair",
        head: Head = "svm",
        C: Positive = 1.0,
        numbers: bool = False,
        seed: Whole = 0,
    ) -> None:
        """Take the settings; nothing is learnt."""
        self.encoder: NormEncoder = norm_encoder(encoder)
        self.settings: dict[str, Any] = {
            "fields": list(fields), "combine": combine, "head": head, "C": C, "numbers": numbers, "seed": seed,
        }  # fmt: skip
        self.classes_: tuple[str, ...] = ()
        self._layers: list[tuple[np.ndarray, np.ndarray]] = []
        self._columns: list[str] = []
        self._mean, self._scale = np.zeros(0), np.zeros(0)

    def fit(self, table: NormTable) -> Self:
        """Learn from the rows that have a label.

        Raises:
            InputError: fewer than two labels, a field that the table has not, or an encoder that gives NaN.
        """
        known = table.judged_only()
        fields = known.named(self.settings["fields"])
        classes = tuple(name for name in known.classes if name in set(known.labels))
        if len(classes) < 2:
            raise InputError(
                f"{known.name}: all {len(known)} rows have the label {classes[0]!r}; expected two at least"
            )
        self.classes_ = classes
        self.encoder.fit([text for name in fields for text in known.fields[name]])
        if self.settings["numbers"]:
            self._columns = list(known.numbers)
            raw = self._numbers(known)
            self._mean, deviation = raw.mean(axis=0), raw.std(axis=0)
            self._scale = np.where(deviation > 0, deviation, 1.0)
        place = {name: number for number, name in enumerate(classes)}
        rows, codes = self.rows(known), np.array([place[label] for label in known.labels])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*converge|.*Maximum iterations")
            self._layers = _layers(self._estimator().fit(rows, codes))
        return self

    def rows(self, table: NormTable) -> Any:
        """(n, m) what the head reads of each row, dense or sparse."""
        parts = [_finite(self.encoder.encode(table.fields[name])) for name in table.named(self.settings["fields"])]
        found = [combined(*parts, how=self.settings["combine"])] if len(parts) == 2 else parts
        if self._columns:
            found.append((self._numbers(table) - self._mean) / self._scale)
        return joined(found) if len(found) > 1 else found[0]

    def scores(self, table: NormTable) -> Float[np.ndarray, "n k"]:
        """One score for each class: distances from borders or logits, not probabilities.

        Raises:
            InputError: not fitted, or a field that the table has not.
        """
        if not self._layers:
            raise InputError("classifier: fit it first")
        found = self.rows(table)
        if found.shape[1] != len(self._layers[0][0]):
            raise InputError(f"classifier: expected rows of {len(self._layers[0][0])} numbers, got {found.shape[1]}")
        for number, (weight, bias) in enumerate(self._layers):
            found = np.asarray((np.maximum(found, 0) if number else found) @ weight + bias)
        return np.hstack([-found, found]) if found.shape[1] == 1 else found

    def predict(self, table: NormTable) -> tuple[str, ...]:
        """The label of each row."""
        return tuple(self.classes_[place] for place in self.scores(table).argmax(axis=1))

    def save(self, path: Path | str) -> None:
        """Write settings, weights and the encoder's digest to one safetensors file, atomically; TF-IDF goes with it."""
        if not self._layers:
            raise InputError("save: fit it first")
        settings = {
            **self.settings, "classes": list(self.classes_), "columns": self._columns,
            "digest": self.encoder.digest, "encoder": self.encoder.name,
        }  # fmt: skip
        arrays = {"mean": self._mean, "scale": self._scale}
        for number, (weight, bias) in enumerate(self._layers):
            arrays |= {f"weight{number}": weight, f"bias{number}": bias}
        if isinstance(self.encoder, TfidfEncoder):
            told, more = self.encoder.state()
            settings["tfidf"] = told
            arrays |= {f"tfidf.{name}": value for name, value in more.items()}
        write_state(path, format=_FORMAT, settings=settings, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str, *, encoder: str | DualEncoder | NormEncoder | None = None) -> Self:
        """Read what ``save`` wrote.

        A file never says which model is opened.

        Args:
            path: the file.
            encoder: that it was fitted on; None takes TF-IDF from the file, or ``minilm`` where it names it.

        Raises:
            InputError: not such a file, weights that are not finite or do not fit, another encoder than it was fitted
                on, or none where it was fitted on a model.
        """
        settings, arrays = read_state(path, what="NormClassifier", format=_FORMAT)
        try:
            digest, name = str(settings.pop("digest")), str(settings.pop("encoder"))
            classes, columns, told = settings.pop("classes"), settings.pop("columns"), settings.pop("tfidf", None)
            own = encoder is None or encoder == name
            if told is not None and own:
                inside = {key.removeprefix("tfidf."): arrays[key] for key in arrays if key.startswith("tfidf.")}
                found = cls(TfidfEncoder.of_state(told, inside), **settings)
            elif encoder is None and name != MINILM:
                raise InputError(f"{path}: was fitted on {name!r:.80}; give that model as the encoder")
            else:
                found = cls(MINILM if encoder is None else encoder, **settings)
            layers = sum(key.startswith("weight") for key in arrays)
            found._layers = [(arrays[f"weight{number}"], arrays[f"bias{number}"]) for number in range(layers)]
            found._mean, found._scale, found._columns = arrays["mean"], arrays["scale"], list(columns)
            found.classes_ = tuple(classes)
            if not found._mean.shape == found._scale.shape == (len(found._columns),):
                raise ValueError(f"columns: expected a mean and a scale of each, got {quoted(columns)}")
            _check_head(found._layers, found.classes_, arrays)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: expected the settings and weights of a NormClassifier: {error}") from error
        check_encoder(path, recorded=digest, encoder=None, digest=found.encoder.digest, name=name)
        return found

    def _numbers(self, table: NormTable) -> Float[np.ndarray, "n c"]:
        if missing := [name for name in self._columns if name not in table.numbers]:
            raise InputError(f"{table.name}: expected numbers {', '.join(self._columns)}, got no {missing[0]}")
        if not self._columns:
            raise InputError(f"{table.name}: has no numbers to read")
        return _finite(np.stack([table.numbers[name] for name in self._columns], axis=1).astype(np.float64))

    def _estimator(self) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
        from sklearn.svm import LinearSVC

        seed, C = self.settings["seed"] % 2**32, self.settings["C"]  # scikit-learn takes 32 bits
        if self.settings["head"] == "svm":
            return LinearSVC(C=C, class_weight="balanced", random_state=seed, max_iter=5000)
        if self.settings["head"] == "logistic":
            return LogisticRegression(C=C, class_weight="balanced", max_iter=2000, random_state=seed)
        return MLPClassifier((HIDDEN,), alpha=1e-3, max_iter=60, early_stopping=False, random_state=seed)


def _layers(estimator: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    if hasattr(estimator, "coefs_"):
        return list(zip(estimator.coefs_, estimator.intercepts_, strict=True))
    return [(estimator.coef_.T, estimator.intercept_)]


def _check_head(
    layers: list[tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], arrays: dict[str, np.ndarray]
) -> None:
    """Raise ValueError where a file's weights are none of a head on these classes."""
    if odd := [name for name, value in arrays.items() if value.dtype.kind != "f" or not np.isfinite(value).all()]:
        raise ValueError(f"{odd[0]}: expected finite numbers")
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(isinstance(one, str) for one in classes):
        raise ValueError(f"classes: expected two different texts or more, got {classes!r:.80}")
    widths = [weight.shape for weight, _ in layers]
    fits = all(weight.ndim == 2 and bias.shape == weight.shape[1:] for weight, bias in layers)
    chained = all(one[1] == next_[0] for one, next_ in pairwise(widths))
    if not layers or not fits or not chained or widths[-1][1] != (1 if len(classes) == 2 else len(classes)):
        raise ValueError(f"weights: expected a chain that ends in {len(classes)} classes, got {widths}")


def _finite(rows: Any) -> Any:
    values = getattr(rows, "data", rows) if not isinstance(rows, np.ndarray) else rows
    if not np.isfinite(values).all():
        raise InputError("encoder: a row holds NaN or infinity")
    return rows
