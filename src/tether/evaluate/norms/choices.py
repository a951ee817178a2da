"""EgoNormia's figures: right action, right reason, both, and how well sensible options are known (arXiv 2502.20490)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.data.sets.norms.egonormia import NormItem, overlap
from tether.evaluate.bootstrap import interval

Shares = Mapping[str, tuple[float, int]]
FIGURES = ("action", "justification", "both", "sensible")


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Figures of one chooser.

    Attributes:
        sums: of each of ``FIGURES`` over items: right ones, and intersection over union of sensible sets.
        n: items.
        intervals: lower and upper end of each figure, a fraction, over items.
        chance: of each figure, for a chooser that draws; NaN where the items are not known.
        kinds: share of items with both right, and how many items, by norm kind of the right option.
        activities: the same by activity of the scene.
    """

    sums: tuple[float, float, float, float]
    n: int
    intervals: tuple[tuple[float, float], ...]
    chance: tuple[float, float, float, float]
    kinds: Shares = field(default_factory=dict)
    activities: Shares = field(default_factory=dict)

    @property
    def percent(self) -> tuple[float, ...]:
        """Each figure of the items answered, times 100, as the release prints them."""
        return tuple(100 * value / self.n for value in self.sums)

    def fraction(self, figure: str) -> float:
        """One of ``FIGURES``, 0 to 1."""
        return self.sums[FIGURES.index(figure)] / self.n


@checked
def choice_scores(
    said: Int[np.ndarray, "n two"],
    *,
    correct: Int[np.ndarray, "n two"],
    sensible: Sequence[Collection[int] | None],
    sensible_correct: Sequence[Collection[int]],
    options: Sequence[int] | None = None,
    resamples: Count = 1000,
) -> ChoiceScores:
    """Figures of answers to n items.

    An action is right or wrong by itself, and so is a justification. Of sensible options intersection over union is
    taken: 1 where both sets are empty (the release would divide by zero), 0 where there is no answer.

    Source: arXiv 2502.20490, released compute_scores_final.py.

    Args:
        said: (n, 2) number of the action and of the justification; -1 for an answer that could not be read.
        correct: (n, 2) of the right ones.
        sensible: options called sensible, an item each; None for no answer.
        sensible_correct: those that are.
        options: how many each item has, for chance.
        resamples: draws of the intervals over items.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.norms import choice_scores
        >>> said, correct = np.array([[0, 1], [2, 2]]), np.array([[0, 1], [2, 3]])
        >>> found = choice_scores(said, correct=correct, sensible=[[0], [2, 3]], sensible_correct=[[0], [2]])
        >>> found.percent  # action, justification, both, intersection over union
        (100.0, 50.0, 50.0, 75.0)
    """
    given, right = np.asarray(said), np.asarray(correct)
    n = len(given)
    if given.shape != right.shape or given.ndim != 2 or given.shape[1] != 2 or not n:
        raise InputError(f"answers: expected (n, 2) twice, got {given.shape} and {right.shape}")
    if len(sensible) != n or len(sensible_correct) != n or (options is not None and len(options) != n):
        raise InputError(f"answers: expected {n} sensible sets, right ones and counts of options")
    hits = given == right
    union = [overlap(mine, theirs) for mine, theirs in zip(sensible, sensible_correct, strict=True)]
    each = np.column_stack([hits[:, 0], hits[:, 1], hits.all(axis=1), union]).astype(np.float64)
    action, justification, both, iou = each.sum(axis=0).tolist()
    ends = interval(each, counts=np.ones_like(each), resamples=resamples)
    chance = (float("nan"),) * 4 if options is None else _chance(options, sensible_correct)
    return ChoiceScores((action, justification, both, iou), n, tuple((float(a), float(b)) for a, b in ends), chance)


def evaluate_egonormia(
    answers: Mapping[str, Mapping[str, Any]],
    *,
    items: Sequence[NormItem] | None = None,
    activities: Mapping[str, str] | None = None,
) -> dict[str, ChoiceScores]:
    """Figures by model of an answer file of the release: id, model, ``best`` and ``sensible``.

    An empty list of sensible options is no answer here, as in the release, and counts 0.

    Args:
        answers: item to model to ``{"best": {"results": [a, j], "correct": [a, j]}, "sensible": {...}}``; a model that
            did not answer an item is not counted there, and a null in ``results``, which could not be read, is wrong.
        items: that were asked, for chance and the table by norm kind.
        activities: of items by id, as in the release's id2high.json, for the table by activity.

    Raises:
        InputError: no answer, one without one of these, or an item that is not among those given.
    """
    if not answers:
        raise InputError("answers: expected at least one item, got none")
    by_id = None if items is None else {item.id: item for item in items}
    if by_id is not None and (odd := [name for name in answers if name not in by_id]):
        raise InputError(f"answers: {odd[0]!r:.80} is none of the {len(by_id)} items")
    rows: dict[str, list[tuple[list[int], list[int], list[int] | None, list[int]]]] = {}
    asked: dict[str, list[str]] = {}
    for name, models in answers.items():
        for model, said in models.items():
            try:
                best, sensible = said["best"], said.get("sensible") or {}
                given = sensible.get("results") or None
                row = (
                    [-1 if one is None else int(one) for one in best["results"]],
                    [int(one) for one in best["correct"]],
                    given,
                    sensible.get("correct") or [],
                )
                if len(row[0]) != 2 or len(row[1]) != 2:
                    raise ValueError("two numbers")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(
                    f"answers: {name}, {model}: expected best and sensible with results and correct: {error}"
                ) from error
            rows.setdefault(model, []).append(row)
            asked.setdefault(model, []).append(name)
    found = {}
    for model, its in rows.items():
        said, right = (np.array([row[at] for row in its]) for at in (0, 1))
        both, names = (said == right).all(axis=1), asked[model]
        scores = choice_scores(
            said, correct=right, sensible=[row[2] for row in its], sensible_correct=[row[3] for row in its],
            options=None if by_id is None else [len(by_id[name].behaviors) for name in names],
        )  # fmt: skip
        found[model] = replace(
            scores,
            kinds={} if by_id is None else _shares(both, [by_id[name].norm_kinds for name in names]),
            activities={} if activities is None else _shares(both, [(activities.get(n, "unknown"),) for n in names]),
        )
    return found


def kind_table(items: Sequence[NormItem], said: Int[np.ndarray, "n two"]) -> dict[str, tuple[float, int]]:
    """Share of items with both right, and how many items, by norm kind of the right option."""
    right = [bool(action == item.correct == reason) for item, (action, reason) in zip(items, said, strict=True)]
    return _shares(right, [item.norm_kinds for item in items])


def _shares(right: Sequence[bool] | np.ndarray, names: Sequence[Collection[str]]) -> dict[str, tuple[float, int]]:
    found: dict[str, list[bool]] = {}
    for hit, its in zip(right, names, strict=True):
        for name in its:
            found.setdefault(name, []).append(bool(hit))
    return {name: (float(np.mean(hits)), len(hits)) for name, hits in sorted(found.items())}


def _chance(options: Sequence[int], sensible: Sequence[Collection[int]]) -> tuple[float, float, float, float]:
    """Of a chooser that draws one option for each question, and calls every option sensible."""
    one = float(np.mean([1 / count for count in options]))
    both = float(np.mean([1 / count**2 for count in options]))
    return one, one, both, float(np.mean([len(set(its)) / count for its, count in zip(sensible, options, strict=True)]))
