"""How well labels of norms are told: accuracy, F1 and kappa with intervals over groups, and chance beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.data.sets.norms.normdial import LABELS
from tether.data.sets.norms.table import NormTable

RESAMPLES = 500
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class NormFigure:
    """A number beside what it would be by chance.

    Attributes:
        value: measured.
        low: lower end of the 95 % interval over whole groups.
        high: upper end.
        chance: the same figure of the commonest label of the rows that were learnt from, said everywhere.
        uniform: the same figure expected of labels drawn with equal chances, for accuracy; else NaN.
    """

    value: float
    low: float
    high: float
    chance: float
    uniform: float = float("nan")

    def __str__(self) -> str:
        """As reports have it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], chance {self.chance:.3f}"


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One label.

    Attributes:
        label: of it.
        precision: share of those said that are right; 0 where it is never said.
        recall: share of those there are that are said; 0 where there are none.
        f1: of both.
        support: how many there are.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class NormScores:
    """All figures of one head on one table.

    Attributes:
        accuracy: share that is right.
        macro_f1: mean F1 over the labels that are there or are said.
        kappa: Cohen's, 0 for chance.
        classes: each label.
        confusion: (k, k) counts, a row for each true label.
        facets: accuracy by value of each facet, with its rows.
        n: rows.
        groups: how many groups they are of.
    """

    accuracy: NormFigure
    macro_f1: NormFigure
    kappa: float
    classes: tuple[ClassFigures, ...]
    confusion: Int[np.ndarray, "k k"]
    facets: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)
    n: int = 0
    groups: int = 0


@checked
def evaluate_groups(
    truth: Sequence[str],
    *,
    said: Sequence[str],
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    facets: Mapping[str, Sequence[str]] | None = None,
    common: str | None = None,
    resamples: Count = RESAMPLES,
    seed: int = 0,
) -> NormScores:
    """Figures of labels said against labels given.

    Args:
        truth: (n,) labels that people, or a model, gave.
        said: (n,) labels of a head.
        classes: all there may be, in order.
        groups: what is drawn again as a whole for the intervals, such as a dialogue; None takes each row by itself.
        facets: by which else accuracy is told.
        common: the label that chance says everywhere; None takes the commonest of ``truth``, which flatters chance.
        resamples: draws of the intervals.
        seed: of the draws.

    Raises:
        InputError: nothing to measure on, lengths that differ, or a label that is none of the classes.

    Example:
        >>> from tether.evaluate.norms import evaluate_groups
        >>> found = evaluate_groups(["a", "b", "b"], said=["a", "b", "a"], classes=["a", "b"])
        >>> round(found.accuracy.value, 3), round(found.accuracy.chance, 3)
        (0.667, 0.667)
    """
    true, pred = _coded(truth, classes, "truth"), _coded(said, classes, "said")
    if not len(true):
        raise InputError("truth: no rows to measure on")
    _same({"said": pred, "groups": groups, **(facets or {})}, len(true))
    k = len(classes)
    most = np.bincount(true, minlength=k).argmax() if common is None else _coded([common], classes, "common")[0]
    always = np.full_like(true, most)
    members = np.arange(len(true)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(members.max()) + 1
    tables = np.zeros((count, k, k), dtype=np.int64)
    np.add.at(tables, (members, true, pred), 1)
    whole = tables.sum(axis=0)
    lows, highs = _intervals(tables, resamples=resamples, seed=seed)
    chance = _confusion(true, always, k)
    precision, recall, f1 = _each(whole)
    told = {name: _by_value(true == pred, column) for name, column in (facets or {}).items()}
    return NormScores(
        accuracy=NormFigure(_accuracy(whole), lows[0], highs[0], _accuracy(chance), 1 / k),
        macro_f1=NormFigure(_macro(whole), lows[1], highs[1], _macro(chance)),
        kappa=_kappa(whole),
        classes=tuple(
            ClassFigures(name, float(precision[at]), float(recall[at]), float(f1[at]), int(whole[at].sum()))
            for at, name in enumerate(classes)
        ),
        confusion=whole,
        facets=told,
        n=len(true),
        groups=count,
    )


def evaluate_turns(
    true: Sequence[str] | Int[np.ndarray, " n"],
    pred: Sequence[str] | Int[np.ndarray, " n"],
    groups: Sequence[str] | None = None,
    *,
    facets: Mapping[str, Sequence[str]] | None = None,
) -> NormScores:
    """``evaluate_groups`` for the three labels of NormDial's turns, given as texts or as their numbers.

    Args:
        true: (n,) labels of the release; 0 is not relevant, 1 adhered, 2 violated.
        pred: (n,) labels of a head.
        groups: (n,) dialogues, for the intervals.
        facets: such as the category or the language of each turn.
    """
    truth, said = (
        [LABELS[one] if isinstance(one, (int, np.integer)) else str(one) for one in its] for its in (true, pred)
    )
    return evaluate_groups(truth, said=said, classes=LABELS, groups=groups, facets=facets)


def category_figures(table: NormTable, said: Sequence[str]) -> dict[str, NormScores]:
    """Figures of the rows that have each category of constraint; a row counts in each that it has.

    Args:
        table: of ``load_normbank``, or another with a facet ``constraints`` whose values are joined by " + ".
        said: (n,) labels of a head.
    """
    _same({"said": said}, len(table))
    found: dict[str, list[int]] = {}
    for row, names in enumerate(table.facets.get("constraints", ())):
        for name in filter(None, names.split(" + ")):
            found.setdefault(name, []).append(row)
    return {
        name: evaluate_groups(
            [table.labels[row] for row in rows], said=[said[row] for row in rows], classes=table.classes,
            groups=[table.groups[row] for row in rows],
        )
        for name, rows in sorted(found.items())
    }  # fmt: skip


def flip_accuracy(truth: Sequence[str], *, said: Sequence[str], groups: Sequence[str]) -> tuple[float, int]:
    """Share of pairs of one group with different labels of which both are right, and how many pairs there are.

    A head that sees only the situation says the same of both, so it has 0. Source: our figure for arXiv 2305.17008,
    whose constraints flip norms.

    Args:
        truth: (n,) labels given.
        said: (n,) labels of a head.
        groups: (n,) the situation of each; rows of one group differ in their constraints alone.

    Returns:
        NaN and 0 where no group has two labels.
    """
    _same({"said": said, "groups": groups}, len(truth))
    right = np.array([a == b for a, b in zip(truth, said, strict=True)])
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    pairs = good = 0
    for rows in members.values():
        names = sorted({truth[row] for row in rows})
        total = [sum(truth[row] == name for row in rows) for name in names]
        hits = [sum(truth[row] == name and bool(right[row]) for row in rows) for name in names]
        pairs += (sum(total) ** 2 - sum(one**2 for one in total)) // 2
        good += (sum(hits) ** 2 - sum(one**2 for one in hits)) // 2
    return (good / pairs if pairs else float("nan")), pairs


def _by_value(right: Bool[np.ndarray, " n"], column: Sequence[str]) -> dict[str, tuple[float, int]]:
    values = np.asarray(column)
    return {str(one): (float(right[values == one].mean()), int((values == one).sum())) for one in sorted(set(column))}


def _coded(labels: Sequence[str], classes: Sequence[str], name: str) -> Int[np.ndarray, " n"]:
    place = {label: number for number, label in enumerate(classes)}
    if odd := [label for label in labels if label not in place]:
        raise InputError(f"{name}: expected one of {', '.join(classes)}, got {odd[0]!r:.80}")
    return np.array([place[label] for label in labels], dtype=np.int64)


def _same(columns: Mapping[str, Sequence[object] | np.ndarray | None], n: int) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != n:
            raise InputError(f"{name}: expected {n} values, got {len(column)}")


def _confusion(true: np.ndarray, pred: np.ndarray, k: int) -> Int[np.ndarray, "k k"]:
    return np.bincount(true * k + pred, minlength=k * k).reshape(k, k)


def _each(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits, said, there = (one.astype(np.float64) for one in (np.diag(table), table.sum(axis=0), table.sum(axis=1)))
    precision = np.divide(hits, said, out=np.zeros_like(hits), where=said > 0)
    recall = np.divide(hits, there, out=np.zeros_like(hits), where=there > 0)
    f1 = np.divide(2 * hits, said + there, out=np.zeros_like(hits), where=said + there > 0)
    return precision, recall, f1


def _macro(table: np.ndarray) -> float:
    seen = (table.sum(axis=0) + table.sum(axis=1)) > 0
    return float(_each(table)[2][seen].mean())


def _accuracy(table: np.ndarray) -> float:
    return float(np.trace(table) / table.sum())


def _kappa(table: np.ndarray) -> float:
    n = table.sum()
    by_chance = float((table.sum(axis=0) * table.sum(axis=1)).sum() / n**2)
    return (_accuracy(table) - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def _intervals(
    tables: Int[np.ndarray, "g k k"], *, resamples: int, seed: int
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Bounds of accuracy and macro F1, groups drawn again as wholes."""
    rng = np.random.default_rng(seed)
    found = np.empty((resamples, 2))
    flat = tables.reshape(len(tables), -1)
    for draw in range(resamples):
        weight = np.bincount(rng.integers(0, len(tables), len(tables)), minlength=len(tables))
        drawn = (weight @ flat).reshape(tables.shape[1:])
        found[draw] = _accuracy(drawn), _macro(drawn)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    return low, high


def evaluate_pairs(
    truth: Int[np.ndarray, " n"], said: Int[np.ndarray, " n"], *, binary: bool | None = None
) -> Float[np.ndarray, " four"]:
    """Accuracy, precision, recall and F of labels 0 and 1 for label 1, and of others as plain means over labels.

    Source: released utils.py of arXiv 1906.02121.

    Args:
        truth: (n,) labels.
        said: (n,) labels.
        binary: whether label 1 alone is asked for; None where no label but 0 and 1 occurs.
    """
    true, pred = np.asarray(truth), np.asarray(said)
    _same({"said": pred}, len(true))
    if not len(true):
        raise InputError("truth: no rows to measure on")
    names, coded = np.unique(np.concatenate([true, pred]), return_inverse=True)
    k = len(names)
    table = _confusion(coded[: len(true)], coded[len(true) :], k)
    each = _each(table)
    if set(names.tolist()) <= {0, 1} if binary is None else binary:
        one = [float(value[names.tolist().index(1)]) if 1 in names else 0.0 for value in each]
    else:
        one = [float(value.mean()) for value in each]
    return np.array([_accuracy(table), *one])
