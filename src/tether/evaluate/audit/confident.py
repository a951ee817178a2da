"""Which labels of a table are likely wrong, by the probabilities that a classifier gives which did not learn them.

Source: confident learning, arXiv 1911.00068, section 3: a threshold for each class, the confident joint, its
calibration, and pruning by noise rate. Written from its formulae; ``benchmarks/label_audit.py`` measures it
against cleanlab.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize

from tether.core.errors import InputError

LEAST = 2
"""Rows of a class, at least."""
_ROUNDING = 1e-3
_SMALLEST = 1e-6


def checked_labels(labels: Int[np.ndarray, " n"], *, classes: Sequence[str], least: int = LEAST) -> None:
    """Refuse labels that nothing can be learnt from.

    Raises:
        InputError: a label out of range, fewer than two classes with rows, or one with fewer than ``least`` rows.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        row = int(np.flatnonzero((labels < 0) | (labels >= len(classes)))[0])
        raise InputError(f"labels: row {row} has {labels[row]}; expected 0 to {len(classes) - 1}")
    counts = np.bincount(labels, minlength=len(classes))
    if (counts > 0).sum() < 2:
        raise InputError(
            f"labels: all rows have the class {classes[int(counts.argmax())]!r}; expected at least two classes"
            if len(labels)
            else "labels: expected at least two rows, got none"
        )
    few = [place for place in range(len(classes)) if 0 < counts[place] < least]
    if few:
        named = ", ".join(f"{classes[place]!r} ({counts[place]})" for place in few[:3])
        raise InputError(
            f"labels: expected at least {least} rows of each class, got fewer of {len(few)}: {named}"
            f"{', ...' if len(few) > 3 else ''}; merge or leave out such classes"
        )


def checked_probabilities(
    probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], *, keys: Sequence[str] = ()
) -> None:
    """Refuse what are no probabilities.

    Raises:
        InputError: another shape, NaN, numbers outside 0 to 1, or rows that do not sum to 1; the first row is named.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(labels):
        raise InputError(f"probabilities: expected ({len(labels)}, classes), got {probabilities.shape}")

    def named(bad: Bool[np.ndarray, " n"]) -> str:
        row = int(bad.argmax())
        return f"row {keys[row] if keys else row!r}"

    lost = np.asarray(~np.isfinite(probabilities).all(axis=1))
    if lost.any():
        raise InputError(f"probabilities: {named(lost)} holds NaN or infinity ({int(lost.sum())} rows in all)")
    odd = (probabilities < -_ROUNDING).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > _ROUNDING)
    if odd.any():
        raise InputError(f"probabilities: {named(odd)}: expected numbers of at least 0 that sum to 1")
    if len(labels) and not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        row = int(np.flatnonzero((labels < 0) | (labels >= probabilities.shape[1]))[0])
        raise InputError(f"labels: row {row} has {labels[row]}; expected 0 to {probabilities.shape[1] - 1}")


def confident_joint(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "c c"]:
    """Estimated share of all rows that have label i and are truly j; sums to 1 (1911.00068, equations 1 to 3).

    A row counts for class j where its probability of j is at least the mean one of the rows labelled j; of several such
    classes the likeliest. The counts of each label are scaled to the rows that have it.

    Args:
        probabilities: of each row by a classifier that did not learn it; rows sum to 1.
        labels: numbers of the classes.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.audit.confident import confident_joint
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
        >>> confident_joint(p, np.array([0, 0, 1, 1, 1])).round(2).tolist()
        [[0.4, 0.0], [0.2, 0.4]]
    """
    checked_probabilities(probabilities, labels)
    count = probabilities.shape[1]
    sizes = np.bincount(labels, minlength=count)
    own = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=count)
    limits = np.where(sizes > 0, own / np.maximum(sizes, 1), np.inf)
    sure = np.where(probabilities >= limits - 1e-12, probabilities, -1.0)
    guess, seen = sure.argmax(axis=1), sure.max(axis=1) >= 0
    joint = np.zeros((count, count))
    np.add.at(joint, (labels[seen], guess[seen]), 1)
    empty = (joint.sum(axis=1) == 0) & (sizes > 0)
    joint[empty, empty] = 1.0
    return joint * (sizes / np.maximum(joint.sum(axis=1), 1e-12))[:, None] / max(1, len(labels))


def likely_wrong(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Rows pruned by noise rate (1911.00068, section 3.2).

    For each pair of a label i and another class j, as many rows labelled i as the joint counts there, those with the
    largest ``p_j - p_i``; only rows to which j seems likelier than i.
    """
    joint = confident_joint(probabilities, labels)
    wanted = np.rint(joint * len(labels)).astype(int)
    wrong = np.zeros(len(labels), dtype=bool)
    for given, other in zip(*np.nonzero(wanted), strict=True):
        if given == other:
            continue
        rows = np.flatnonzero(labels == given)
        margin = probabilities[rows, other] - probabilities[rows, given]
        best = np.argsort(-margin, kind="stable")[: wanted[given, other]]
        wrong[rows[best[margin[best] > 0]]] = True
    return wrong


def doubt(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """How much speaks against each label, 0 to 1: 1 - the probability of the label itself.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.audit.confident import doubt
        >>> doubt(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1])).round(2).tolist()
        [0.1, 0.9]
    """
    checked_probabilities(probabilities, labels)
    return 1 - probabilities[np.arange(len(labels)), labels]


def pooled(judges: Sequence[Float[np.ndarray, "n c"]], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
    """Several classifiers as one: the product of their probabilities, each to a power of at least 0.

    The powers are those under which the given labels are likeliest, so a judge that knows nothing gets about 0. Each
    must not have learnt the row it judges. Two or three numbers are fitted to all rows, so wrong labels hardly
    move them.
    """
    for one in judges:
        checked_probabilities(one, labels)
    logs = np.stack([np.log(np.clip(one, _SMALLEST, 1.0)) for one in judges])
    rows = np.arange(len(labels))

    def loss(powers: Float[np.ndarray, " j"]) -> tuple[float, Float[np.ndarray, " j"]]:
        found = _softmax(np.tensordot(powers, logs, axes=1))
        slope = [((found * one).sum(axis=1) - one[rows, labels]).mean() for one in logs]
        return float(-np.log(np.maximum(found[rows, labels], 1e-300)).mean()), np.array(slope)

    start = np.full(len(judges), 1.0 / len(judges))
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 20.0)] * len(judges))
    return _softmax(np.tensordot(best.x, logs, axes=1))


def _softmax(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)
