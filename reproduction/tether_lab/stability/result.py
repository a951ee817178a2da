"""The bench's result as JSON: written row by row, and checked when it is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_json, write_text
from tether.core.errors import InputError
from tether.workflows.clipper_comparison.costs import Cost
from tether.workflows.clipper_comparison.trace import BEFORE
from tether_lab.stability.bench import BenchPlan, prints, tuples
from tether_lab.stability.faults import FAULTS, PLANTED
from tether_lab.stability.guards import NONE, USUAL
from tether_lab.stability.models import subject
from tether_lab.stability.runs import WARMUP, BenchRun
from tether_lab.stability.table import TIE, Difference, GuardRow, compare, rows

FILE = "stability.json"
RULES = {
    "final": "mean cross-entropy on held-out data after the last step, in nats; a ruined run counts as a model that "
    "knows nothing",
    "spike": f"steps in a row whose training loss lies above the median of the {BEFORE} steps before by more than the "
    "model's rise, or is not finite, count as one; planted steps neither count nor enter the median",
    "lost": "steps by which the same seed without fault and guard had reached the final loss earlier",
    "difference": "paired over seeds; low and high are one-sided 95 % bounds (Student's t)",
    "word": f"ties: the interval lies within {TIE} nats to both sides of 0; better or worse: it lies on one side of 0; "
    "unclear: it does not, for the seeds disagree",
    "cost": "time added to a calm step of fused AdamW, torch.nn.utils.clip_grad_norm_ = 1: 145 tensors, 12 M "
    "parameters, one thread, processor time, median and range of interleaved rounds; the gradients are the same each "
    "time and below every limit but AutoClip's, which is then their own norm, so that it acts",
}
"""What the words of the table mean."""


def result(
    wanted: BenchPlan,
    outcomes: Sequence[BenchRun],
    *,
    costs: Mapping[str, Cost],
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the page and the guide say, ready for JSON.

    Args:
        wanted: the plan.
        outcomes: its runs.
        costs: of the guards that were run.
        stored: the result that has the rows of ``wanted.kept``; machine, versions, commit and date stay those of it,
            and each guard that was run has its own commit and date.
    """
    from tether_lab.lab.reproduce import commit, machine, versions

    stored = stored if stored and wanted.kept else {}
    when = {"commit": commit(), "measured": datetime.now(UTC).strftime("%Y-%m-%d")}
    codes = prints(wanted.new)
    entries = {
        name: guard.described() | {"cost": asdict(costs[name]), "fingerprint": codes[name]} | when
        for name, guard in wanted.new.items()
    }
    kept = [row for row in table_of(stored) if row.guard in wanted.kept] if stored else []
    places = [list(names) for names in (wanted.models, wanted.faults, wanted.guards)]
    table = sorted(
        rows(outcomes, kept=kept),
        key=lambda row: [
            names.index(name) for names, name in zip(places, (row.model, row.fault, row.guard), strict=True)
        ],
    )
    spent = stored.get("cpu_seconds", 0.0) + sum(one.cpu_seconds for one in outcomes)
    about = {"machine": machine("cpu"), "versions": versions(), **when}
    return {
        "bench": "stability",
        "steps": wanted.steps,
        "seeds": list(wanted.seeds),
        "planted": list(PLANTED),
        "warmup": WARMUP,
        "rules": RULES,
        "models": {
            name: {"says": who.says, "chance": who.chance, "rise": who.rise, "rate": who.rate, "betas": list(who.betas)}
            for name in wanted.models
            if (who := subject(name))
        },
        "faults": {name: FAULTS[name].says for name in wanted.faults},
        "guards": {name: entries.get(name) or stored["guards"][name] for name in wanted.guards},
        "rows": [asdict(row) for row in table],
        "runs": len(table) * len(wanted.seeds),
        "cpu_seconds": round(spent, 1),
        **{key: stored.get(key, value) for key, value in about.items()},
    }


def standing(found: Mapping[str, Any], wanted: BenchPlan) -> tuple[str, ...]:
    """Guards whose rows in a stored result are what a plan would measure.

    A row stands while the fingerprint of its guard does; one without a fingerprint, from before results had them,
    stands while its settings do, until it is published anew. Where ``none`` or ``global_norm`` does not stand,
    or the plan has other models, faults, seeds or steps, nothing does.

    Args:
        found: the stored result.
        wanted: the plan.
    """
    theirs = [list(found["models"]), list(found["faults"]), found["seeds"], found["steps"]]
    if theirs != [list(wanted.models), list(wanted.faults), list(wanted.seeds), wanted.steps]:
        return ()
    codes = prints(wanted.guards)
    names = tuple(
        name
        for name, guard in wanted.guards.items()
        if (entry := found["guards"].get(name)) is not None
        and entry.get("fingerprint", codes[name]) == codes[name]
        and guard.described().items() <= entry.items()
    )
    return names if {NONE, USUAL} <= set(names) else ()


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a result: one line for each row, so that a change can be read."""
    head = {key: value for key, value in found.items() if key != "rows"}
    lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in _plain(found["rows"]))
    text = json.dumps(_plain(head), indent=2, ensure_ascii=False).removesuffix("\n}")
    write_text(path, f'{text},\n  "rows": [\n{lines}\n  ]\n}}\n')


def read(path: Path) -> dict[str, Any]:
    """Read a result and see that its words follow from its numbers.

    Raises:
        InputError: not a result of this bench, or a row whose difference is not what its seeds give.
    """
    found = read_json(path)
    needed = {"bench", "rules", "models", "faults", "guards", "rows", "seeds", "steps"}
    if not isinstance(found, dict) or not needed <= found.keys() or found["bench"] != "stability":
        raise InputError(f"{path}: not a result of tether-lab bench stability")
    try:
        table = table_of(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: rows: not those of tether-lab bench stability: {error!r}") from None
    finals = {(row.model, row.fault, row.guard): row.final for row in table}
    for row in table:
        for baseline, said in ((NONE, row.against_none), (USUAL, row.against_usual)):
            theirs = finals.get((row.model, row.fault, baseline))
            if theirs is None:
                raise InputError(f"{path}: {row.model}, {row.fault}: the row {baseline!r} is missing")
            true = compare(row.final, theirs)
            if true.word != said.word or abs(true.mean - said.mean) > 1e-9:
                raise InputError(
                    f"{path}: {row.model}, {row.fault}, {row.guard} against {baseline}: says {said.word} by "
                    f"{said.mean:.4g}, its seeds give {true.word} by {true.mean:.4g}"
                )
    return found


def table_of(found: Mapping[str, Any]) -> list[GuardRow]:
    """The rows of a result as values."""
    return [
        GuardRow(**values | {name: Difference(**values[name]) for name in ("against_none", "against_usual")})
        for values in tuples(list(found["rows"]))
    ]


def kinds_of(found: Mapping[str, Any]) -> dict[str, str]:
    """``clipper`` or ``optimizer`` for each guard of a result."""
    return {name: guard["kind"] for name, guard in found["guards"].items()}


def costs_of(found: Mapping[str, Any]) -> dict[str, Cost]:
    """The cost of each guard of a result."""
    return {name: Cost(**guard["cost"]) for name, guard in found["guards"].items()}


def _plain(value: Any) -> Any:
    """Numbers rounded to what was measured: twelve digits keep every sum exact enough to check."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
