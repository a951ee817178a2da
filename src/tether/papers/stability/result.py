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
from tether.papers.stability.bench import BenchPlan, tuples
from tether.papers.stability.costs import Cost
from tether.papers.stability.faults import FAULTS, PLANTED
from tether.papers.stability.guards import NONE, RATES, USUAL
from tether.papers.stability.models import subject
from tether.papers.stability.runs import WARMUP, BenchRun
from tether.papers.stability.table import TIE, Difference, GuardRow, compare, rows
from tether.papers.stability.trace import BEFORE

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


def result(wanted: BenchPlan, outcomes: Sequence[BenchRun], *, costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Everything that the page and the guide say, ready for JSON.

    Args:
        wanted: the plan.
        outcomes: its runs.
        costs: of its guards.
    """
    from tether.papers.reproduction.reproduce import commit, machine, versions

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
        "guards": {
            name: {
                "kind": guard.kind,
                "part": guard.part_name,
                "settings": dict(guard.settings),
                "rates": dict(RATES.get(name, {})),
            }
            | {"cost": asdict(costs[name])}
            for name, guard in wanted.guards.items()
        },
        "rows": [asdict(row) for row in rows(outcomes)],
        "runs": len(outcomes),
        "cpu_seconds": round(sum(one.cpu_seconds for one in outcomes), 1),
        "machine": machine("cpu"),
        "versions": versions(),
        "commit": commit(),
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


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
        raise InputError(f"{path}: not a result of tether bench stability")
    try:
        table = table_of(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: rows: not those of tether bench stability: {error!r}") from None
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
