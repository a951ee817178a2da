"""The table in Markdown: for the guide, and for whoever pastes it somewhere."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tether.papers.reproduction.markdown import table as markdown_table
from tether.papers.stability.advice import Answer, Standing, advice, answers, standings
from tether.papers.stability.guards import NONE, USUAL
from tether.papers.stability.result import costs_of, table_of
from tether.papers.stability.table import GuardRow, Word

WORDS: tuple[Word, ...] = ("better", "ties", "unclear", "worse")
BETTER, WORSE, TIES = "↓", "↑", "="
LEGEND = (
    f"{BETTER} better and {WORSE} worse than `{NONE}`, by the rule above; {TIES} ties with `{USUAL}`. Lower is better."
)


def document(found: Mapping[str, Any]) -> str:
    """The whole result as one Markdown file."""
    parts = [f"# Stability bench\n\n{scale(found)}"]
    parts += [f"## {title}\n\n{text}" for title, text in blocks(found).items()]
    return "\n\n".join(parts) + "\n"


def lines(found: Mapping[str, Any]) -> list[str]:
    """The advice, a sentence each."""
    kinds = {name: guard["kind"] for name, guard in found["guards"].items()}
    return advice(table_of(found), kinds=kinds, costs=costs_of(found))


def blocks(found: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts by title, in the order of the guide."""
    table, kinds = table_of(found), {name: guard["kind"] for name, guard in found["guards"].items()}
    costs = costs_of(found)
    return {
        "Advice": "\n".join(f"- {line}" for line in lines(found)),
        "Which clipper is enough": enough_table(answers(table, kinds=kinds, costs=costs)),
        "Every guard over all faults": standing_table(standings(table, kinds=kinds, costs=costs)),
        **{f"Final loss: {name}": final_table(table, model=name) for name in found["models"]},
        "Rules": "\n".join(f"- *{name}*: {says}." for name, says in found["rules"].items()),
        "What was run": scale(found) + "\n\n" + settings(found),
    }


def scale(found: Mapping[str, Any]) -> str:
    """How much was run, where, and what it cost, in one paragraph."""
    return (
        f"{found['runs']:,} runs of {found['steps']} steps each, from models ({', '.join(found['models'])}), faults "
        f"({len(found['faults']) - 1}, and none at all), guards ({len(found['guards'])}) and seeds "
        f"({len(found['seeds'])}); {found['cpu_seconds'] / 60:.1f} minutes of one core "
        f"({found['machine']['processor']}, torch {found['versions']['torch']}), measured {found['measured']}."
    )


def settings(found: Mapping[str, Any]) -> str:
    """Models, faults and the settings that are not defaults, as a list."""
    return "\n".join(f"- {name}: {says}" for name, says in setting_rows(found, quote="`"))


def setting_rows(found: Mapping[str, Any], *, quote: str = "") -> list[tuple[str, str]]:
    """Models, faults and the settings that are not defaults, each with its name.

    Args:
        found: a result.
        quote: around names.
    """
    rows = [(f"model {quote}{name}{quote}", _of_model(model)) for name, model in found["models"].items()]
    rows += [(f"fault {quote}{name}{quote}", says) for name, says in found["faults"].items()]
    for name, guard in found["guards"].items():
        own = [f"{key}={value}" for key, value in guard["settings"].items()]
        own += [f"lr={rate:g} ({model})" for model, rate in guard["rates"].items()]
        if name != guard["part"]:
            own.insert(0, f"the part {quote}{guard['part']}{quote}")
        if own:
            rows.append((f"guard {quote}{name}{quote}", ", ".join(own)))
    return rows


def _of_model(model: Mapping[str, Any]) -> str:
    return (
        f"{model['says']}; AdamW at {model['rate']:g}, betas {model['betas']}; a spike rises by {model['rise']:g} nats"
    )


def enough_table(found: Sequence[Answer]) -> str:
    """For each fault and model: the clipper that is enough, what it gains, the best one, and who ties."""
    rows = [
        (
            f"`{one.fault}`",
            one.model,
            f"`{one.enough}`",
            f"{one.gain:.2f}" if one.enough != NONE else "",
            f"`{one.best}`",
            ", ".join(f"`{name}`" for name in one.tied),
        )
        for one in found
    ]
    return markdown_table(("fault", "model", "enough", "gain over `none`, nats", "lowest loss", "as good"), rows)


def standing_table(ranking: Sequence[Standing]) -> str:
    """One line for each guard."""
    rows = [
        (
            f"`{one.guard}`",
            one.kind,
            f"{one.harm:+.2f}",
            f"{one.calm:+.2f}",
            counts(one.against_none),
            counts(one.against_usual),
            f"{one.lost:.0f}",
            f"{one.spikes:.1f}",
            f"{100 * one.clipped:.0f} %" if one.kind == "clipper" else "",
            f"{one.cost:.2f}",
        )
        for one in ranking
    ]
    return markdown_table(
        (
            "guard",
            "kind",
            "loss lost to faults",
            "loss lost when clean",
            f"against `{NONE}`",
            f"against `{USUAL}`",
            "steps lost",
            "spikes",
            "clipped",
            "cost",
        ),
        rows,
    )


def counts(words: Mapping[Word, int]) -> str:
    """``better / ties / unclear / worse`` as numbers."""
    return " / ".join(str(words.get(word, 0)) for word in WORDS)


def final_table(table: Sequence[GuardRow], *, model: str) -> str:
    """Mean final loss, guards down and faults across, with marks."""
    some = [row for row in table if row.model == model]
    faults = list(dict.fromkeys(row.fault for row in some))
    cells = {(row.guard, row.fault): marked(row) for row in some}
    guards = dict.fromkeys(row.guard for row in some)
    rows = [(f"`{guard}`", *(cells[guard, fault] for fault in faults)) for guard in guards]
    return markdown_table(("guard", *(f"`{fault}`" for fault in faults)), rows)


def marked(row: GuardRow) -> str:
    """``2.27 ↓ =``: the mean, how it compares with none, and whether it ties with the usual clipper."""
    marks = [{"better": BETTER, "worse": WORSE}.get(row.against_none.word, "") if row.guard != NONE else ""]
    marks.append(TIES if row.guard != USUAL and row.against_usual.word == "ties" else "")
    return " ".join([f"{statistics.fmean(row.final):.2f}", *filter(None, marks)])
