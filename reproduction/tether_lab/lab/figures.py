"""A result in words and tables, as the command line and the pages show it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tether.core.markdown import number, table

BOUNDS = "one-sided 95 % bounds"


def improvement(result: Mapping[str, Any]) -> str:
    """The mean improvement over seeds between its bounds, and what was asked; below 0 the method is worse."""
    mean, lower, upper, margin = (number(result[name]) for name in ("mean", "lower", "upper", "margin"))
    if result["kind"] == "property":
        return f"{mean} inside its bound on average"
    asked = f"{margin} worse allowed" if result["kind"] == "no_worse" else f"{margin} asked"
    return f"improvement {mean} ({lower} to {upper}), {asked}"


def held(result: Mapping[str, Any]) -> str:
    """How many conditions hold, such as ``3 of 4 conditions hold``; empty where none is asked."""
    asked = len(result["conditions"])
    holding = sum(one["holds"] for one in result["conditions"])
    return f"{holding} of {asked} condition{'s'[: asked != 1]} hold{'s'[: asked == 1]}" if asked else ""


def conditions(result: Mapping[str, Any]) -> str:
    """One row a condition: what was measured, what was asked, by how much it is met and whether that is enough."""
    if not result["conditions"]:
        return ""
    return table(
        ["condition", "measured", "asked", "better by (bound)", ""],
        (
            [
                one["says"],
                number(_mean(result["seeds"], one["ours"])),
                _asked(one, result["seeds"]),
                f"{number(one['mean'])} ({number(one['lower'])})",
                "holds" if one["holds"] else "**fails**",
            ]
            for one in result["conditions"]
        ),
    )


def seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """One row a figure, one column a seed, and the mean."""
    names = ["baseline", "ours", *sorted({name for run in runs for name in run["notes"]})]
    return table(
        ["figure", *(f"seed {run['seed']}" for run in runs), "mean"],
        ([name.replace("_", " "), *(_shown(run, name) for run in runs), number(_mean(runs, name))] for name in names),
    )


def _asked(condition: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """What the figure of a condition must reach, on average over these seeds."""
    than, higher = condition["than"], condition["better"] == "higher"
    against = _mean(runs, than) if isinstance(than, str) else than
    wanted = against + condition["least"] if higher else against - condition["least"]
    return f"at {'least' if higher else 'most'} {number(wanted)}"


def _mean(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.fmean(value for run in runs if (value := _figure(run, name)) is not None)


def _shown(run: Mapping[str, Any], name: str) -> str:
    value = _figure(run, name)
    return "" if value is None else number(value)


def _figure(run: Mapping[str, Any], name: str) -> float | None:
    return run[name] if name in ("baseline", "ours") else run["notes"].get(name)
