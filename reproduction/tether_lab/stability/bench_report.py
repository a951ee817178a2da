"""The report of ``tether-lab bench stability``: its page, its Markdown file, and the blocks of the guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tether.workflows.clipper_comparison.sections import (
    BETTER,
    TIES,
    WORSE,
    StabilityReport,
    StabilitySection,
    VerdictGrid,
)
from tether_lab.stability.advice import Standing, advice, answers, standings
from tether_lab.stability.bench_curves import bench_curves
from tether_lab.stability.guards import NONE, USUAL
from tether_lab.stability.result import costs_of, kinds_of, table_of
from tether_lab.stability.runs import BenchRun
from tether_lab.stability.table import Difference, GuardRow, Word, cell

WORDS: tuple[Word, ...] = ("better", "ties", "unclear", "worse")
FIRST_TWO = (f"`{NONE}`", f"`{USUAL}`")


def bench_report(found: Mapping[str, Any], outcomes: Sequence[BenchRun] = ()) -> StabilityReport:
    """Everything that a result says.

    Args:
        found: a result.
        outcomes: its runs, for the curves; without them there are none.
    """
    table, kinds, costs = table_of(found), kinds_of(found), costs_of(found)
    ranking = standings(table, kinds=kinds, costs=costs)
    scale = scale_of(found)
    return StabilityReport(
        title="Stability bench",
        kind="what helps against which fault",
        lede=scale,
        command="tether-lab bench stability",
        highlights=_highlights(ranking),
        sections=[
            StabilitySection(
                "Advice",
                "Each sentence is made from the table by a rule; none is typed by hand.",
                lines=advice(table, kinds=kinds, costs=costs),
            ),
            StabilitySection(
                "Which clipper is enough",
                "The first in the order `none`, `global_norm`, then by cost, that is as good as the best.",
                grids=[_enough(table, kinds=kinds, costs=costs)],
            ),
            StabilitySection(
                "Every guard over all faults",
                "Losses in nats above the same model without fault and guard. “Against” counts cells of one model and "
                "one fault: better / ties / unclear / worse. Clippers work beside AdamW; optimisers stand alone.",
                grids=[_standings(ranking)],
            ),
            *(
                StabilitySection(
                    f"Final loss: {name}",
                    f"{model['says']}; knowing nothing is {model['chance']:.2f} nats. Mean over the seeds, on held-out "
                    f"data. {BETTER} better and {WORSE} worse than `{NONE}` under the same fault; {TIES} ties with "
                    f"`{USUAL}`.",
                    grids=[_finals(table, model=name)],
                )
                for name, model in found["models"].items()
            ),
            StabilitySection(
                "Curves",
                "The first seed. Of the clippers besides `global_norm`, the one with the lowest final loss in that "
                "cell is drawn, with its limit. Red dots are the planted steps, whose own loss is left out.",
                curves=bench_curves(outcomes, kinds=kinds),
            ),
            StabilitySection(
                "Details",
                "Every cell: the seeds one by one, and both differences with their 95 % bounds.",
                grids=[
                    _details(f"{model}, {fault}: {says}", cell(table, model=model, fault=fault))
                    for model in found["models"]
                    for fault, says in found["faults"].items()
                ],
            ),
            StabilitySection(
                "Rules",
                "Set before the runs, and the same for every guard. Small models and short runs: read it as what a "
                "guard does to a fault, not as what your loss will be.",
                lines=[f"*{name}*: {says}." for name, says in found["rules"].items()],
            ),
            StabilitySection("What was run", lines=_settings(found)),
        ],
    )


def scale_of(found: Mapping[str, Any]) -> str:
    """How much was run, where, and what it cost, in one paragraph."""
    later = {
        f"`{name}` {guard['measured']}"
        for name, guard in found["guards"].items()
        if guard.get("measured", found["measured"]) != found["measured"]
    }
    return (
        f"{found['runs']:,} runs of {found['steps']} steps each, from models ({', '.join(found['models'])}), faults "
        f"({len(found['faults']) - 1}, and none at all), guards ({len(found['guards'])}) and seeds "
        f"({len(found['seeds'])}); {found['cpu_seconds'] / 60:.1f} minutes of one core "
        f"({found['machine']['processor']}, torch {found['versions']['torch']}), measured {found['measured']}"
        f"{''.join(f', {one}' for one in sorted(later))}."
    )


def _settings(found: Mapping[str, Any]) -> list[str]:
    """Models, faults and the settings that are not defaults."""
    said = [
        f"model `{name}`: {model['says']}; AdamW at {model['rate']:g}, betas {model['betas']}; a spike rises by "
        f"{model['rise']:g} nats"
        for name, model in found["models"].items()
    ]
    said += [f"fault `{name}`: {says}" for name, says in found["faults"].items()]
    for name, guard in found["guards"].items():
        own = [f"the part `{guard['part']}`"] if name != guard["part"] else []
        own += [f"{key}={value}" for key, value in guard["settings"].items()]
        own += [f"lr={rate:g} ({model})" for model, rate in guard["rates"].items()]
        if own:
            said.append(f"guard `{name}`: {', '.join(own)}")
    return said


def _highlights(ranking: Sequence[Standing]) -> list[tuple[str, str, str]]:
    by_name = {one.guard: one for one in ranking}
    shown = {"nats lost to faults, no guard": by_name[NONE], "nats lost to faults, global_norm": by_name[USUAL]}
    for kind, words in (("clipper", "the least of any clipper"), ("optimizer", "of any optimiser")):
        if some := [one for one in ranking if one.kind == kind]:
            shown[f"{words}, {some[0].guard}"] = some[0]
    return [(f"{one.harm:+.2f}", words, f"{one.lost:.0f} steps a run") for words, one in shown.items()]


def _enough(table: Sequence[GuardRow], **known: Any) -> VerdictGrid:
    rows = [
        (
            f"`{one.fault}`",
            one.model,
            f"`{one.enough}`",
            f"{one.gain:.2f}" if one.enough != NONE else "",
            f"`{one.best}`",
            ", ".join(f"`{name}`" for name in one.tied),
        )
        for one in answers(table, **known)
    ]
    head = ("fault", "model", "enough", f"gain over `{NONE}`, nats", "lowest loss", "as good")
    return VerdictGrid("Which clipper is enough", head, rows)


def _standings(ranking: Sequence[Standing]) -> VerdictGrid:
    rows = [
        (
            f"`{one.guard}`",
            one.kind,
            f"{one.harm:+.2f}",
            f"{one.calm:+.2f}",
            _counts(one.against_none),
            _counts(one.against_usual),
            f"{one.lost:.0f}",
            f"{one.spikes:.1f}",
            f"{100 * one.clipped:.0f} %" if one.kind == "clipper" else "",
            f"{one.cost:.2f}",
        )
        for one in ranking
    ]
    losses = ("loss lost to faults", "loss lost when clean")
    against = (f"against `{NONE}`", f"against `{USUAL}`")
    head = ("guard", "kind", *losses, *against, "steps lost", "spikes", "clipped", "cost")
    return VerdictGrid("Every guard", head, rows, own=FIRST_TWO)


def _counts(words: Mapping[Word, int]) -> str:
    return " / ".join(str(words.get(word, 0)) for word in WORDS)


def _finals(table: Sequence[GuardRow], *, model: str) -> VerdictGrid:
    """Mean final loss, guards down and faults across, with marks."""
    some = {(row.guard, row.fault): row for row in table if row.model == model}
    faults, guards = dict.fromkeys(fault for _, fault in some), dict.fromkeys(guard for guard, _ in some)
    rows = [(f"`{guard}`", *(marked(some[guard, fault]) for fault in faults)) for guard in guards]
    return VerdictGrid(f"Final loss of {model}", ("guard", *(f"`{fault}`" for fault in faults)), rows, own=FIRST_TWO)


def marked(row: GuardRow) -> str:
    """``2.27 ↓ =``: the mean, how it compares with none, and whether it ties with the usual clipper."""
    marks = [{"better": BETTER, "worse": WORSE}.get(row.against_none.word, "") if row.guard != NONE else ""]
    marks.append(TIES if row.guard != USUAL and row.against_usual.word == "ties" else "")
    return " ".join([f"{row.mean:.2f}", *filter(None, marks)])


def _details(title: str, some: Sequence[GuardRow]) -> VerdictGrid:
    rows = [
        (
            f"`{row.guard}`",
            "  ".join(f"{value:.3f}" for value in row.final),
            *(" ".join(map(str, values)) for values in (row.lost, row.spikes, row.skipped)),
            f"{100 * sum(row.clipped) / len(row.clipped):.0f} %",
            _said(row.against_none),
            _said(row.against_usual),
        )
        for row in some
    ]
    counted = ("steps lost", "spikes", "skipped", "clipped")
    head = ("guard", "final loss by seed", *counted, f"less `{NONE}`", f"less `{USUAL}`")
    return VerdictGrid(title, head, rows, own=FIRST_TWO, folded=True)


def _said(difference: Difference) -> str:
    """``better, -0.320 [-0.390, -0.250]``."""
    if difference.mean == difference.low == difference.high == 0:
        return "equal"
    return f"{difference.word}, {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
