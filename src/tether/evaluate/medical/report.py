"""How well several findings are told apart, each and together, in all rows and in groups, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Inner, Whole, checked
from tether.evaluate.groups import Labels, Share, coded, wilson

BINS = 15
"""Of the calibration error (arXiv 1706.04599, section 5)."""

Table = Tensor | np.ndarray


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and how far it could be off.

    Attributes:
        value: over all rows.
        low: lower end of the bootstrap interval, None without one.
        high: upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class FindingReport:
    """One finding; a figure is None where the rows cannot give it, and a note says why.

    Attributes:
        name: of the finding.
        rows: with a certain label.
        positives: of them.
        uncertain: rows left out, labelled -1 or NaN.
        auroc: chance that a row with the finding scores above one without; 0.5 is chance.
        average_precision: area under precision and recall; the fraction of positives is chance.
        calibration_error: mean distance of probability and fraction of positives over 15 equal bins.
        threshold: that was given.
        sensitivity: fraction of positives at or above the threshold.
        specificity: fraction of negatives below it.
    """

    name: str
    rows: int
    positives: int
    uncertain: int
    auroc: Estimate | None
    average_precision: Estimate | None
    calibration_error: float | None
    threshold: float | None = None
    sensitivity: Share | None = None
    specificity: Share | None = None


@dataclass(frozen=True, slots=True)
class MultilabelReport:
    """All findings.

    Attributes:
        findings: one report each.
        auroc: mean over the findings that have one, None without any.
        average_precision: likewise.
        groups: for each attribute and each of its values the same for these rows alone.
        notes: what could not be measured, and why.
    """

    findings: tuple[FindingReport, ...]
    auroc: Estimate | None
    average_precision: Estimate | None
    groups: Mapping[str, Mapping[object, MultilabelReport]]
    notes: tuple[str, ...]

    def gap(self, attribute: str) -> float | None:
        """Best minus worst mean AUROC over the values of an attribute; None with fewer than two that have one."""
        if attribute not in self.groups:
            raise InputError(f"no groups by {attribute!r}; known: {', '.join(self.groups) or 'none'}")
        found = [report.auroc.value for report in self.groups[attribute].values() if report.auroc is not None]
        return max(found) - min(found) if len(found) > 1 else None


@checked
def multilabel_report(
    probability: Table,
    *,
    truth: Table,
    findings: Sequence[str] | None = None,
    groups: Mapping[str, Labels] | None = None,
    patients: Labels | None = None,
    thresholds: Sequence[float | None] | None = None,
    resamples: Whole = 0,
    level: Inner = 0.95,
    seed: int = 0,
) -> MultilabelReport:
    """AUROC, average precision and calibration of each finding, their means, and the same for groups of rows.

    Accuracy is left out on purpose: where one row in fifty has a finding, saying "no" is 98 % right. Thresholds are
    taken and never chosen here: ``choose_thresholds`` chooses them, on validation rows.

    Source: arXiv 2312.07353, on evaluation.

    Args:
        probability: (n, k) in [0, 1], or any scores where calibration does not matter (it is then None).
        truth: (n, k): 1 present, 0 absent, -1 or NaN uncertain: those rows do not count for that finding.
        findings: k names; None numbers them.
        groups: for each attribute (age, sex, site) its value in each row.
        patients: (n,) whose row each is: resampled whole, as images of one patient are alike. None takes each row for
            itself.
        thresholds: k thresholds, None for a finding that has none.
        resamples: of the bootstrap; 0 gives no intervals.
        level: of confidence, two-sided.
        seed: of the resampling.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.medical import multilabel_report
        >>> probability = np.array([[0.9], [0.2], [0.6], [0.7]])
        >>> truth = np.array([[1], [0], [1], [0]])
        >>> report = multilabel_report(probability, truth=truth, findings=["effusion"], groups={"site": [0, 0, 1, 1]})
        >>> report.auroc.value, report.gap("site")  # all right at one site, all wrong at the other
        (0.75, 1.0)
    """
    score, label = _checked(probability, truth)
    names = tuple(str(number) for number in range(score.shape[1])) if findings is None else tuple(findings)
    if len(names) != score.shape[1]:
        raise InputError(f"findings: expected {score.shape[1]} names, got {len(names)}")
    limits = (None,) * len(names) if thresholds is None else tuple(thresholds)
    if len(limits) != len(names):
        raise InputError(f"thresholds: expected {len(names)}, one for each finding, got {len(limits)}")
    owner = np.arange(len(score)) if patients is None else _codes(patients, name="patients", rows=len(score))[1]
    attributes = {
        name: _codes(values, name=f"groups: {name}", rows=len(score)) for name, values in (groups or {}).items()
    }
    settings = {"names": names, "limits": limits, "resamples": resamples, "level": level, "seed": seed}
    whole = _report(score, label, owner=owner, **settings)
    parts = {
        attribute: {
            value: _report(score[code == place], label[code == place], owner=owner[code == place], **settings)
            for place, value in enumerate(values)
        }
        for attribute, (values, code) in attributes.items()
    }
    notes = [*whole.notes]
    for attribute, reports in parts.items():
        notes += [f"{attribute} {value}: {note}" for value, report in reports.items() for note in report.notes]
    return MultilabelReport(whole.findings, whole.auroc, whole.average_precision, parts, tuple(notes))


@checked
def choose_thresholds(
    probability: Table, *, truth: Table, criterion: Literal["youden", "f1"] = "youden"
) -> tuple[float | None, ...]:
    """One threshold for each finding, chosen on validation rows; None where one class is missing.

    Args:
        probability: (n, k) scores of *validation* rows.
        truth: (n, k) as for ``multilabel_report``.
        criterion: ``youden`` maximises sensitivity + specificity, ``f1`` their balance with precision; of equal ones
            the highest threshold is taken.
    """
    score, label = _checked(probability, truth)
    found: list[float | None] = []
    for column in range(score.shape[1]):
        known = ~np.isnan(label[:, column])
        rows = ranked(score[known, column], truth=label[known, column] > 0)
        positives = int(rows.positive.sum())
        if not 0 < positives < len(rows.positive):
            found.append(None)
            continue
        hits = np.add.reduceat(rows.positive.astype(float), rows.starts).cumsum()
        said = np.r_[rows.starts[1:], len(rows.positive)]
        if criterion == "youden":
            quality = hits / positives - (said - hits) / (len(rows.positive) - positives)
        else:
            quality = 2 * hits / (said + positives)
        best = int(np.argmax(quality))
        found.append(float(score[known, column][rows.order[rows.starts[best]]]))
    return tuple(found)


def _report(
    score: np.ndarray,
    label: np.ndarray,
    *,
    owner: np.ndarray,
    names: tuple[str, ...],
    limits: tuple[float | None, ...],
    resamples: int,
    level: float,
    seed: int,
) -> MultilabelReport:
    resampled = _resampled(score, label, owner=owner, resamples=resamples, seed=seed)
    reports, notes, areas, precisions = [], [], [], []
    for column, name in enumerate(names):
        known = ~np.isnan(label[:, column])
        values, truth = score[known, column], label[known, column] > 0
        positives = int(truth.sum())
        figures: list[Estimate | None] = [None, None]
        if 0 < positives < len(truth):
            area, precision = curves(ranked(values, truth=truth), weights=np.ones((1, len(truth))))
            many = resampled[column]
            areas.append((area[0], many[0]))
            precisions.append((precision[0], many[1]))
            figures = [_estimate(*areas[-1], level=level), _estimate(*precisions[-1], level=level)]
        else:
            what = "no row" if not len(truth) else "only rows without it" if not positives else "only rows with it"
            notes.append(f"{name}: {what}, so AUROC and average precision are not defined")
        reports.append(
            FindingReport(
                name,
                rows=len(truth),
                positives=positives,
                uncertain=int((~known).sum()),
                auroc=figures[0],
                average_precision=figures[1],
                calibration_error=_calibration_error(values, truth),
                threshold=limits[column],
                sensitivity=_share(values[truth], limits[column], above=True),
                specificity=_share(values[~truth], limits[column], above=False),
            )
        )
    return MultilabelReport(tuple(reports), _mean(areas, level=level), _mean(precisions, level=level), {}, tuple(notes))


def _checked(probability: Table, truth: Table) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    score, label = (
        np.asarray(table.detach().cpu() if isinstance(table, torch.Tensor) else table, dtype=np.float64)
        for table in (probability, truth)
    )
    if score.ndim != 2 or score.shape != label.shape or 0 in score.shape:
        raise InputError(f"expected probability and truth (n, k) of one shape, got {score.shape} and {label.shape}")
    if not np.isfinite(score).all():
        row, column = np.argwhere(~np.isfinite(score))[0]
        raise InputError(
            f"probability: expected finite numbers, got {score[row, column]} in row {row}, column {column}"
        )
    label = np.where(label == -1, np.nan, label)
    strange = ~np.isnan(label) & (label != 0) & (label != 1)
    if strange.any():
        row, column = np.argwhere(strange)[0]
        raise InputError(f"truth: expected 0, 1, -1 or NaN, got {label[row, column]} in row {row}, column {column}")
    return score, label


def _codes(labels: Labels, *, name: str, rows: int) -> tuple[tuple[object, ...], np.ndarray]:
    values, code = coded(labels, name=name)
    if len(code) != rows:
        raise InputError(f"{name}: expected one for each of {rows} rows, got {len(code)}")
    return tuple(values), code.numpy()


def _resampled(
    score: np.ndarray, label: np.ndarray, *, owner: np.ndarray, resamples: int, seed: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each column with both classes its AUROC and average precision in every resample."""
    known = ~np.isnan(label)
    both = [column for column in range(label.shape[1]) if {0, 1} <= set(label[known[:, column], column].tolist())]
    rows = {
        column: ranked(score[known[:, column], column], truth=label[known[:, column], column] > 0) for column in both
    }
    found = {column: [(np.empty(0), np.empty(0))] for column in both}
    for weights in _draws(owner, resamples=resamples, seed=seed) if both else ():
        for column in both:
            found[column].append(curves(rows[column], weights=weights[:, known[:, column]]))
    return {
        column: (np.concatenate([area for area, _ in parts]), np.concatenate([precision for _, precision in parts]))
        for column, parts in found.items()
    }


def _draws(owner: np.ndarray, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(some resamples, n) how often each row is drawn, the rows of one patient together; a bounded piece at a time."""
    _, place = np.unique(owner, return_inverse=True)
    count = int(place.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, AT_ONCE // len(place))
    for start in range(0, resamples, step):
        some = range(start, min(start + step, resamples))
        counts = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in some]
        yield np.array(counts, dtype=np.float64)[:, place]


def _estimate(value: float, many: np.ndarray, *, level: float) -> Estimate:
    if not len(many) or np.isnan(many).all():
        return Estimate(float(value))
    low, high = np.nanquantile(many, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))


def _mean(figures: list[tuple[float, np.ndarray]], *, level: float) -> Estimate | None:
    if not figures:
        return None
    many = np.array([each for _, each in figures])
    known = ~np.isnan(many)
    counted = known.sum(axis=0)
    means = np.where(counted > 0, np.where(known, many, 0.0).sum(axis=0) / np.maximum(counted, 1), np.nan)
    return _estimate(float(np.mean([value for value, _ in figures])), means, level=level)


def _calibration_error(values: np.ndarray, truth: np.ndarray) -> float | None:
    if not len(values) or values.min() < 0 or values.max() > 1:
        return None
    place = np.minimum((values * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(place, weights=truth - values, minlength=BINS)).sum() / len(values))


def _share(values: np.ndarray, limit: float | None, *, above: bool) -> Share | None:
    if limit is None or math.isnan(limit):
        return None
    return wilson(int(((values >= limit) == above).sum()), n=len(values))


AT_ONCE = 1 << 23
"""Weights that are held at a time."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A finding's rows in order of their scores, ready to be weighed.

    Attributes:
        order: (n,) rows, highest score first.
        starts: (g,) where each run of equal scores begins in that order.
        positive: (n,) truth in that order.
    """

    order: np.ndarray
    starts: np.ndarray
    positive: Bool[np.ndarray, " n"]


def ranked(scores: Float[np.ndarray, " n"], *, truth: Bool[np.ndarray, " n"]) -> Ranked:
    """Sort once; equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    fresh = np.r_[True, np.diff(scores[order]) != 0]
    return Ranked(order, np.flatnonzero(fresh), truth[order])


def curves(rows: Ranked, *, weights: Float[np.ndarray, "r n"]) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision under each row of weights; NaN where one class has no weight.

    AUROC is the chance that a positive scores above a negative, ties counting half. Average precision is the sum of
    precisions at each threshold, weighted by the gain in recall, without interpolation.
    """
    areas, precisions = [], []
    step = max(1, AT_ONCE // max(1, weights.shape[1]))
    for start in range(0, len(weights), step):
        found = weights[start : start + step, rows.order]
        positive = np.add.reduceat(found * rows.positive, rows.starts, axis=1)
        every = np.add.reduceat(found, rows.starts, axis=1)
        gained, seen = positive.cumsum(axis=1), every.cumsum(axis=1)
        total, rest = gained[:, -1], (seen - gained)[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            above = gained - positive / 2
            areas.append(((every - positive) * above).sum(axis=1) / (total * rest))
            share = np.where(seen > 0, gained / seen, 0.0)
            precision = (positive * share).sum(axis=1) / total
            precisions.append(np.where(rest > 0, precision, np.nan))
    return np.concatenate(areas), np.concatenate(precisions)
