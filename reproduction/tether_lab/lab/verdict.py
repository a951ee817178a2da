"""What a set of paired seeds allows one to say: the verdict is computed here and never typed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Number, checked
from tether_lab.lab.card import Better, Condition, Kind

Verdict = Literal["reproduced", "in part", "property holds", "direction only", "not shown", "contrary"]
LEAST_SEEDS = 3
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """Paired seeds in five numbers; every improvement is positive when the method is better.

    Attributes:
        mean: mean improvement over seeds, in units of the metric.
        lower: one-sided 95 % lower bound of the mean improvement (paired t).
        upper: one-sided 95 % upper bound of it.
        verdict: what that amounts to.
    """

    mean: float
    lower: float
    upper: float
    verdict: Verdict


def improvements(baseline: Sequence[float], ours: Sequence[float], *, better: Better) -> list[float]:
    """Improvement of each seed, positive when the method is better.

    Raises:
        InputError: unequal lengths, or a value that is not finite (a run that fails needs a metric that says so).
    """
    if len(baseline) != len(ours):
        raise InputError(f"pairs need equal lengths, got {len(baseline)} baselines and {len(ours)} trials")
    for seed, pair in enumerate(zip(baseline, ours, strict=True)):
        if not all(math.isfinite(value) for value in pair):
            raise InputError(f"pair {seed}: expected finite numbers, got baseline={pair[0]} ours={pair[1]}")
    sign = 1.0 if better == "higher" else -1.0
    return [sign * (new - old) for old, new in zip(baseline, ours, strict=True)]


@checked
def bounds(differences: Annotated[Sequence[Number], MinLen(2)]) -> tuple[float, float]:
    """One-sided 95 % lower and upper bound of the mean, by Student's t with n - 1 degrees of freedom."""
    n = len(differences)
    mean = statistics.fmean(differences)
    half = student_t(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


def student_t(freedom: int, *, below: float = CONFIDENCE) -> float:
    """The value that Student's t stays below with this probability (> 0.5); importing scipy for it takes longer.

    Source: the closed forms of Abramowitz and Stegun, 26.7.3 and 26.7.4, and bisection.
    """
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in (low, high):
        cosine, term, total = math.cos(middle), 1.0, 0.0
        for k in range(2 + freedom % 2, freedom + 1, 2):  # 1 + cos^2 / 2 + 1 * 3 cos^4 / (2 * 4) + ..., or the odd one
            total, term = total + term, term * cosine**2 * (k - 1) / k
        inside = math.sin(middle) * total
        if freedom % 2:
            inside = 2 / math.pi * (middle + inside * cosine)
        low, high = (middle, high) if inside < 2 * below - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def judge(mean: float, *, lower: float, upper: float, margin: float, kind: Kind = "better") -> Verdict:
    """The verdict on the claim itself, whatever its conditions.

    Of a claim to be ``better``: ``reproduced`` if the lower bound is above 0 and the mean is at least the margin,
    ``direction only`` if the lower bound is above 0 and the mean smaller, ``contrary`` if the upper bound is below 0.
    Of a claim to be ``no_worse``: ``reproduced`` if the lower bound is at least minus the margin, ``contrary`` if the
    upper bound is below that. ``not shown``: anything else, for the seeds do not tell the two apart.
    """
    if kind == "no_worse":
        mean, lower, upper = mean + margin, lower + margin, upper + margin
        if lower >= 0:
            return "reproduced"
    elif lower > 0:
        return "reproduced" if mean >= margin else "direction only"
    return "contrary" if upper < 0 else "not shown"


@checked
def summarise(
    baseline: Sequence[float],
    ours: Sequence[float],
    *,
    better: Better,
    margin: NonNegative,
    kind: Kind = "better",
    conditions: Sequence[bool] = (),
) -> Summary:
    """Judge paired seeds.

    Args:
        baseline: the metric without the method, one value per seed; of a ``property`` its bound.
        ours: the metric with it, for the same seeds.
        better: which way is up.
        margin: least mean improvement that counts as reproduced; of a ``no_worse`` claim its allowance.
        kind: see ``tether_lab.lab.card.Claim``.
        conditions: whether each of the claim's conditions holds: if one does not, what would be ``reproduced`` or
            ``property holds`` is ``in part``.

    Raises:
        InputError: fewer than three pairs, or a value that is not finite.
    """
    differences = improvements(baseline, ours, better=better)
    if len(differences) < LEAST_SEEDS:
        raise InputError(f"a verdict needs at least {LEAST_SEEDS} paired seeds, got {len(differences)}")
    mean = statistics.fmean(differences)
    lower, upper = bounds(differences)
    verdict: Verdict
    if kind == "property":
        verdict = "property holds" if min(differences) >= 0 else "contrary"
    else:
        verdict = judge(mean, lower=lower, upper=upper, margin=margin, kind=kind)
    if verdict in ("reproduced", "property holds") and not all(conditions):
        verdict = "in part"
    return Summary(mean, lower, upper, verdict)


@dataclass(frozen=True, slots=True)
class Checked:
    """A condition on the seeds that were measured.

    Attributes:
        condition: what was asked.
        mean: mean improvement over seeds.
        lower: one-sided 95 % lower bound of it.
        holds: whether that is enough.
    """

    condition: Condition
    mean: float
    lower: float
    holds: bool


def check_condition(condition: Condition, figures: Sequence[Mapping[str, float]]) -> Checked:
    """See whether a condition holds.

    Args:
        condition: of a claim.
        figures: of each seed by name: ``ours``, ``baseline`` and the notes of the trial.

    Raises:
        InputError: a figure that a trial does not have, or that is not finite.
    """
    named = [name for name in (condition.ours, condition.than) if isinstance(name, str)]
    missing = sorted({name for name in named for seed in figures if name not in seed})
    if missing:
        raise InputError(f"condition {condition.says!r}: no figure {missing[0]!r}; known: {', '.join(figures[0])}")
    against = [seed[condition.than] if isinstance(condition.than, str) else condition.than for seed in figures]
    differences = improvements(against, [seed[condition.ours] for seed in figures], better=condition.better)
    mean, (lower, _) = statistics.fmean(differences), bounds(differences)
    enough = lower > 0 and mean >= condition.least if condition.least > 0 else lower >= condition.least
    return Checked(condition, mean, lower, enough)
