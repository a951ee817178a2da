"""Does a model favour the classes it saw often? Accuracy and number of predictions of each class against frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import checked

Numbers = Sequence[float] | np.ndarray | Tensor
Edges = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True, slots=True)
class Edge:
    """The classes at one end of the frequencies.

    Attributes:
        classes: how many.
        accuracy: mean of their accuracies; NaN where none has a test row.
        predictions: mean number of predictions of one.
    """

    classes: int
    accuracy: float
    predictions: float


@dataclass(frozen=True, slots=True)
class ImbalanceReport:
    """What a classifier does with frequent and rare classes.

    Attributes:
        confusion: (c, c) number of rows of each true class (row) given each class (column).
        accuracy: (c,) of each class; NaN for a class without a test row.
        predictions: (c,) how often each class was given.
        rho_accuracy: Spearman's correlation of frequency and accuracy over classes with test rows, -1 to 1; None
            where either is constant.
        rho_predictions: of frequency and number of predictions; None where either is constant. 0 is unbiased.
        head: the most frequent classes.
        tail: the rarest classes.
    """

    confusion: Int[np.ndarray, "c c"]
    accuracy: Float[np.ndarray, " c"]
    predictions: Int[np.ndarray, " c"]
    rho_accuracy: float | None
    rho_predictions: float | None
    head: Edge
    tail: Edge

    @property
    def mean_accuracy(self) -> float:
        """Mean over classes with test rows."""
        return float(np.nanmean(self.accuracy))


@checked
def imbalance_report(predicted: Numbers, *, truth: Numbers, frequencies: Numbers, edge: Edges = 0.2) -> ImbalanceReport:
    """How strongly accuracy and predictions follow the classes' frequencies in the training split.

    Give it a balanced test set: with another one the number of predictions follows the test set's own frequencies.

    Source: arXiv 2405.21070 section 2, released code (``get_imb_metrics``, ``get_corrs``). Differs in that classes
    without a test row are left out of the correlation, where the released code gives NaN for all.

    Args:
        predicted: (n,) class given to each test row, 0 to c - 1.
        truth: (n,) its true class.
        frequencies: (c,) training rows of each class, at least 0.
        edge: fraction of the classes that are head and that are tail; at least one class. Ties go to the
            first class.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.imbalance import imbalance_report
        >>> truth = np.repeat([0, 1, 2], 4)  # a balanced test set
        >>> predicted = np.array([0, 0, 0, 0, 1, 1, 1, 0, 2, 1, 0, 0])
        >>> report = imbalance_report(predicted, truth=truth, frequencies=[500, 40, 3], edge=1 / 3)
        >>> round(report.rho_predictions, 2)  # 1: predictions follow the frequencies; 0: they do not care
        1.0
        >>> report.head.accuracy, report.tail.accuracy
        (1.0, 0.25)
    """
    given, true = whole(predicted, name="predicted"), whole(truth, name="truth")
    frequency = frequencies_of(frequencies)
    count = len(frequency)
    if len(given) != len(true):
        raise InputError(f"predicted and truth differ in length: {len(given)} and {len(true)}")
    if not len(given):
        raise InputError("predicted: expected at least one row")
    for name, classes in (("predicted", given), ("truth", true)):
        if classes.min() < 0 or classes.max() >= count:
            raise InputError(
                f"{name}: expected classes 0 to {count - 1}, one for each frequency, got {classes.min()} to "
                f"{classes.max()}"
            )
    confusion = np.bincount(true * count + given, minlength=count * count).reshape(count, count)
    rows = confusion.sum(axis=1)
    accuracy = np.full(count, np.nan)
    np.divide(confusion.diagonal(), rows, out=accuracy, where=rows > 0)
    predictions = confusion.sum(axis=0)
    size = max(round(edge * count), 1)
    head, tail = (np.argsort(sign * frequency, kind="stable")[:size] for sign in (-1, 1))
    return ImbalanceReport(
        confusion,
        accuracy,
        predictions,
        rank_correlation(frequency, accuracy),
        rank_correlation(frequency, predictions),
        _edge(head, accuracy, predictions),
        _edge(tail, accuracy, predictions),
    )


def rank_correlation(x: Float[np.ndarray, " c"], y: np.ndarray) -> float | None:
    """Spearman's correlation where both are numbers; None for fewer than two or a constant one."""
    from scipy.stats import spearmanr

    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return None
    return float(spearmanr(x, y).statistic)


def whole(numbers: Numbers, *, name: str) -> Int[np.ndarray, " n"]:
    """(n,) int64."""
    given = np.asarray(numbers.detach().cpu().numpy() if isinstance(numbers, Tensor) else numbers)
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
        raise InputError(f"{name}: expected whole numbers (n,), got {given.dtype} {given.shape}")
    return given.astype(np.int64)


def frequencies_of(numbers: Numbers) -> Float[np.ndarray, " c"]:
    """(c,) float64."""
    given = np.asarray(numbers.detach().cpu().numpy() if isinstance(numbers, Tensor) else numbers, np.float64)
    if given.ndim != 1 or not len(given):
        raise InputError(f"frequencies: expected one for each class, got shape {given.shape}")
    bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
    if len(bad):
        raise InputError(f"frequencies[{bad[0]}]: expected a finite number of at least 0, got {given[bad[0]]}")
    return given


def _edge(classes: np.ndarray, accuracy: np.ndarray, predictions: np.ndarray) -> Edge:
    tested = accuracy[classes][np.isfinite(accuracy[classes])]
    return Edge(len(classes), float(tested.mean()) if len(tested) else np.nan, float(predictions[classes].mean()))
