"""Advice that follows from the table: every sentence is made by a rule from its numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tether.workflows.clipper_comparison.costs import Cost
from tether.workflows.clipper_comparison.report import as_good
from tether_lab.stability.guards import NONE, USUAL
from tether_lab.stability.table import TIE, GuardRow, Word, by_guard, cell

CALM = "clean"


@dataclass(frozen=True, slots=True)
class Standing:
    """One guard over the whole table.

    Attributes:
        guard: its name.
        kind: ``clipper`` or ``optimizer``.
        harm: mean over models and faults, ``clean`` left out, of the final loss above that of the same model without
            fault and guard, in nats.
        calm: the same for ``clean``: what the guard itself costs.
        against_none: how many cells it is better, ties, worse or unclear in.
        against_usual: the same against ``GlobalNorm(1.0)``.
        spikes: mean per run, over all cells.
        lost: mean steps lost per run, over all cells with a fault.
        clipped: fraction of the steps clipped, over all cells.
        cost: time added to a calm step, ``clip_grad_norm_`` = 1.
    """

    guard: str
    kind: str
    harm: float
    calm: float
    against_none: Mapping[Word, int]
    against_usual: Mapping[Word, int]
    spikes: float
    lost: float
    clipped: float
    cost: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What is enough against one fault in one model.

    Only ``none`` and the clippers judged better than it come into question; the best of them has the lowest mean
    final loss.

    Attributes:
        model: name of the subject.
        fault: name of the fault.
        enough: the first in the order ``none``, ``global_norm``, then by cost, within ``TIE`` of the best.
        best: the best of them.
        gain: mean final loss of ``none`` less that of ``enough``, in nats.
        tied: further clippers within ``TIE`` of the best, by name.
    """

    model: str
    fault: str
    enough: str
    best: str
    gain: float
    tied: tuple[str, ...]


def standings(table: Sequence[GuardRow], *, kinds: Mapping[str, str], costs: Mapping[str, Cost]) -> list[Standing]:
    """Every guard over the whole table, clippers first, the least harm first."""
    calm = {row.model: row.mean for row in table if (row.fault, row.guard) == (CALM, NONE)}
    found = []
    for name, rows in by_guard(table).items():
        faulty = [row for row in rows if row.fault != CALM] or rows
        found.append(
            Standing(
                guard=name,
                kind=kinds[name],
                harm=statistics.fmean(row.mean - calm[row.model] for row in faulty),
                calm=statistics.fmean(row.mean - calm[row.model] for row in rows if row.fault == CALM),
                against_none=Counter(row.against_none.word for row in rows),
                against_usual=Counter(row.against_usual.word for row in rows),
                spikes=statistics.fmean(value for row in rows for value in row.spikes),
                lost=statistics.fmean(value for row in faulty for value in row.lost),
                clipped=statistics.fmean(value for row in rows for value in row.clipped),
                cost=costs[name].ratio,
            )
        )
    return sorted(found, key=lambda one: (one.kind, one.harm))


def answers(table: Sequence[GuardRow], *, kinds: Mapping[str, str], costs: Mapping[str, Cost]) -> list[Answer]:
    """For each fault and model, in the table's order, the clipper that is enough."""
    found = []
    for fault, model in dict.fromkeys((row.fault, row.model) for row in table):
        rows = [row for row in cell(table, model=model, fault=fault) if kinds[row.guard] == "clipper"]
        means = {row.guard: row.mean for row in rows if row.guard == NONE or row.against_none.word == "better"}
        best = min(means, key=lambda name: means[name])
        enough, *tied = as_good(means, tie=TIE, order=lambda name: (name != NONE, name != USUAL, costs[name].ratio))
        found.append(Answer(model, fault, enough, best, means[NONE] - means[enough], tuple(tied)))
    return found


def advice(table: Sequence[GuardRow], *, kinds: Mapping[str, str], costs: Mapping[str, Cost]) -> list[str]:
    """A few plain sentences, the most important first."""
    ranking, found = standings(table, kinds=kinds, costs=costs), answers(table, kinds=kinds, costs=costs)
    return [_start_with(table, ranking), *_per_fault(found), *_careful(table, kinds), *_optimizers(ranking)]


def _start_with(table: Sequence[GuardRow], ranking: Sequence[Standing]) -> str:
    clippers = {one.guard: one for one in ranking if one.kind == "clipper"}
    usual, none = clippers[USUAL], clippers[NONE]
    harmful = {row.guard for row in table if row.fault == CALM and row.against_none.word == "worse"}
    best = min((one for one in clippers.values() if one.guard not in harmful), key=lambda one: one.harm)
    over = "all faults" if len({row.model for row in table}) == 1 else "all faults and models"
    faults = f"Over {over} the final loss rises by {none.harm:.2f} nats without a guard"
    if best is none:
        return f"{faults}, and no clipper that does no harm without a fault leaves less: you need none."
    if usual.harm > best.harm + TIE or usual.guard in harmful:
        return (
            f"Start with {best.guard}. {faults}, by {usual.harm:.2f} with global_norm and by {best.harm:.2f} with it."
        )
    least = "no other leaves less" if best is usual else f"the lowest, {best.guard}, leaves {best.harm:.2f}"
    return (
        f"Start with global_norm. {faults} and by {usual.harm:.2f} with it; of the clippers that do no harm without a "
        f"fault {least}."
    )


def _per_fault(found: Sequence[Answer]) -> list[str]:
    said = []
    if usual := [one for one in found if one.enough == USUAL]:
        said.append(
            f"global_norm is enough, and no clipper that helps is better by more than {TIE:g} nats: {_places(usual)}."
        )
    special = [one for one in found if one.enough not in (NONE, USUAL)]
    for name in dict.fromkeys(one.enough for one in special):
        gains = [f"{one.gain:.2f} under {one.fault} ({one.model})" for one in special if one.enough == name]
        said.append(f"{name} is the one to take where global_norm is not enough. Nats gained: {', '.join(gains)}.")
    if nothing := [one for one in found if one.enough == NONE and one.fault != CALM]:
        said.append(f"No clipper helps, or none is needed: {_places(nothing)}.")
    return said


def _careful(table: Sequence[GuardRow], kinds: Mapping[str, str]) -> list[str]:
    worse = [row for row in table if kinds[row.guard] == "clipper" and row.against_none.word == "worse"]
    said = []
    for name in dict.fromkeys(row.guard for row in worse):
        rows = [row for row in worse if row.guard == name]
        most = max(rows, key=lambda row: row.against_none.mean)
        said.append(
            f"Be careful with {name}: worse than none in {len(rows)} of {len(by_guard(table)[name])} cells, most under "
            f"{most.fault} ({most.model}), by {most.against_none.mean:.2f} nats."
        )
    return said


def _optimizers(ranking: Sequence[Standing]) -> list[str]:
    optimizers = [one for one in ranking if one.kind == "optimizer"]
    if not optimizers:
        return []
    best = optimizers[0]
    usual = next(one for one in ranking if one.guard == USUAL)
    first = f"Of the optimisers {best.guard} loses least: {best.harm:.2f} nats over all faults"
    if best.harm < usual.harm - TIE:
        return [f"{first}, less than AdamW with global_norm ({usual.harm:.2f})."]
    if best.harm <= usual.harm + TIE:
        return [f"{first}, as much as AdamW with global_norm ({usual.harm:.2f}): keep AdamW."]
    return [f"{first}, more than AdamW with global_norm ({usual.harm:.2f}): keep AdamW."]


def _places(found: Sequence[Answer]) -> str:
    models: dict[str, list[str]] = {}
    for one in found:
        models.setdefault(one.fault, []).append(one.model)
    everywhere = max(len(names) for names in models.values())
    return ", ".join(
        fault if len(names) == everywhere and everywhere > 1 else f"{fault} ({', '.join(names)})"
        for fault, names in models.items()
    )
