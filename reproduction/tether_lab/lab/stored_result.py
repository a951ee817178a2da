"""What a paper's ``result.json`` holds, and that all that it says follows from its own numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_args

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.shape import NUMBER
from tether.core.shape import check as fits
from tether_lab.lab import source_index
from tether_lab.lab.card import Better, Card, Claim, Condition, Kind
from tether_lab.lab.history import is_commit
from tether_lab.lab.verdict import check_condition, summarise
from tether_lab.papers import CARDS

SEEDS, FRESH_SEEDS = (0, 1, 2, 3, 4), (5, 6, 7)
"""A verdict rests on the first, whoever asks; the others stand beside it and do not enter it."""


class Figures(TypedDict):
    """One seed in numbers: the metric without the method and with it, and side figures by name.

    Of a smoke run ``trace`` besides, as ``SmokeTrace.figures`` gives it.
    """

    baseline: float
    ours: float
    notes: dict[str, float]
    trace: NotRequired[dict[str, float]]


class SeedRow(Figures):
    """One seed as it was measured: its number, elapsed and processor time, the checkout's commit, the day."""

    seed: int
    wall_seconds: float
    cpu_seconds: float
    commit: str
    measured: str


class ConditionRow(TypedDict):
    """A ``Condition`` with its mean improvement, the 95 % lower bound of that, and whether it holds."""

    says: str
    ours: str
    than: str | float
    better: Better
    least: float
    mean: float
    lower: float
    holds: bool


class Judgement(TypedDict):
    """What seeds say of a claim; see ``verdict.Summary`` and ``verdict.Checked``."""

    mean: float
    lower: float
    upper: float
    verdict: str
    conditions: list[ConditionRow]


FIGURES = {"baseline": NUMBER, "ours": NUMBER, "notes": {"*": NUMBER}}
SMOKE_FIGURES = FIGURES | {"trace?": {"*": NUMBER}}
SEED_ROW = {"seed": int, **FIGURES, "wall_seconds": NUMBER, "cpu_seconds": NUMBER, "commit": str, "measured": str}
_CONDITION = {
    **dict.fromkeys(("says", "ours", "better"), str),
    **dict.fromkeys(("least", "mean", "lower"), NUMBER),
    "than": (str, *NUMBER),
    "holds": bool,
}
SUMMARY = {
    **dict.fromkeys(("mean", "lower", "upper"), NUMBER),
    "verdict": str,
    "conditions": [_CONDITION],
    "seeds": [FIGURES],
}
RESULT = {
    **dict.fromkeys(("slug", "says", "metric", "better", "kind", "baseline", "equal", "scale"), str),
    **dict.fromkeys(("device", "fingerprint", "commit", "measured"), str),
    **dict.fromkeys(("margin", "wall_seconds", "cpu_seconds"), NUMBER),
    "threads": int,
    "machine": {"processor": str, "cores": (int, None), "*": (str, int, None)},
    "versions": {"torch": str, "*": str},
    "smoke": (None, SMOKE_FIGURES),
    "fixed_before": {"holds": bool, "claim": str},
    "fresh": (None, SUMMARY | {"seeds": [SEED_ROW]}),
    **SUMMARY,
    "seeds": [SEED_ROW],
}


def smoke_figures(run: Mapping[str, Any]) -> Figures:
    """The figures of a smoke run alone."""
    return Figures(**{name: run[name] for name in ("baseline", "ours", "notes", "trace")})


def stored(slug: str, *, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored result of a paper from ``folder`` (default: where this package has them), or None."""
    path = folder / f"{slug}.json" if folder else source_index.result_path(slug)
    if not path.is_file():
        return None
    result = read_json(path)
    check(result, where=str(path), card=CARDS.get(slug))
    return result


def check(result: Any, *, where: str, card: Card | None = None) -> None:
    """See that a stored result is whole, of the fixed seeds, and that its verdict follows from its own numbers.

    Args:
        result: as a paper's ``result.json`` holds it: of one thread of the CPU, every seed from a commit.
        where: the file, for errors.
        card: whose claim it must be, or None.

    Raises:
        InputError: a missing key, another claim or other seeds, or a figure or verdict that the seeds do not give.
    """
    if not isinstance(result, dict) or not RESULT.keys() <= result.keys():
        missing = sorted(RESULT.keys() - result.keys()) if isinstance(result, dict) else sorted(RESULT)
        raise InputError(f"{where}: not a result, these keys are missing: {', '.join(missing)}")
    if result["smoke"] is True:
        raise InputError(f"{where}: this is a smoke run, which has no verdict; run it in full")
    fits(result, RESULT, where=where)
    if (result["device"], result["threads"]) != ("cpu", 1):
        raise InputError(f"{where}: expected one thread of the CPU, got {result['threads']} of {result['device']!r}")
    for part, name, seeds in ((result, "", SEEDS), (result["fresh"], "fresh: ", FRESH_SEEDS)):
        if part is not None:
            check_verdict(result, part, seeds=seeds, where=f"{where}: {name}")
            for run in part["seeds"]:
                if not is_commit(run["commit"]):
                    raise InputError(f"{where}: {name}seed {run['seed']}: measured from {run['commit']!r}, no commit")
    if not is_finite(result):
        raise InputError(f"{where}: expected finite numbers")
    for key, value in ({} if card is None else {"slug": card.slug} | asked(card.claim)).items():
        kept = [_plain_condition(one) for one in result[key]] if key == "conditions" else result[key]
        if kept != value:
            raise InputError(
                f"{where}: {key} is {kept!r}, the card says {value!r}; tether-lab reproduce measures it anew"
            )


def asked(claim: Claim) -> dict[str, Any]:
    """A claim as a result holds it."""
    return asdict(claim) | {"conditions": [asdict(one) for one in claim.conditions]}


def claim_digest(result: Mapping[str, Any]) -> str:
    """Of the claim that a result is of."""
    claim = {one.name: result[one.name] for one in fields(Claim)}
    claim |= {"conditions": [_plain_condition(one) for one in claim["conditions"]]}
    return hashlib.sha256(json.dumps(claim, sort_keys=True).encode()).hexdigest()[:16]


def fixed_before(result: Mapping[str, Any]) -> bool:
    """Whether the claim stood in the repository before every seed was measured.

    ``history`` read it from git when the result was stored, and it is kept, for git knows a claim by its file's path;
    the answer about another claim does not count.
    """
    kept = result["fixed_before"]
    return kept["holds"] and kept["claim"] == claim_digest(result)


def _plain_condition(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: kept[field.name] for field in fields(Condition)}


def check_verdict(
    claim: Mapping[str, Any], part: Mapping[str, Any], *, seeds: Sequence[int] = SEEDS, where: str
) -> None:
    """See that what is said of seeds follows from them, verdict and conditions.

    Raises:
        InputError: other seeds or conditions, or a figure or verdict that the seeds do not give.
    """
    numbers = [run.get("seed") for run in part["seeds"]]
    if numbers != list(seeds):
        raise InputError(f"{where}expected the seeds {list(seeds)}, got {numbers}")
    for one in (claim, *claim["conditions"]):
        if one["better"] not in get_args(Better):
            raise InputError(f"{where}better: expected {' or '.join(get_args(Better))}, got {one['better']!r}")
    if claim["kind"] not in get_args(Kind):
        raise InputError(f"{where}kind: expected {', '.join(get_args(Kind))}, got {claim['kind']!r}")
    if [_plain_condition(one) for one in part["conditions"]] != [_plain_condition(one) for one in claim["conditions"]]:
        raise InputError(f"{where}conditions are not those of the claim")
    if not all(is_finite(one["least"]) and is_finite(one["than"]) for one in claim["conditions"]):
        raise InputError(f"{where}conditions: expected finite numbers")
    try:
        found = judged(claim, part["seeds"])
    except (InputError, ArithmeticError) as error:
        raise InputError(f"{where}{error}") from None
    _compare(part, found, keys=("mean", "lower", "upper", "verdict"), where=where)
    for one, again in zip(part["conditions"], found["conditions"], strict=True):
        _compare(one, again, keys=("mean", "lower", "holds"), where=f"{where}{one['says']!r}: ")


def _compare(kept: Mapping[str, Any], found: Mapping[str, Any], *, keys: Iterable[str], where: str) -> None:
    for key in keys:
        old, new = kept[key], found[key]
        near = type(old) in NUMBER and type(new) in NUMBER and abs(old - new) <= 1e-9 * max(1.0, abs(new))
        if old != new and not near:  # NaN is neither
            raise InputError(f"{where}{key} is {old!r}, its seeds give {new!r}")


def judged(claim: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]]) -> Judgement:
    """What seeds say of a claim, both as a result holds them."""
    for run in seeds:
        if taken := run["notes"].keys() & {"baseline", "ours"}:
            raise InputError(f"notes: {min(taken)!r} is the name of a figure of its own")
    figures = [{"baseline": run["baseline"], "ours": run["ours"], **run["notes"]} for run in seeds]
    conditions: list[ConditionRow] = []
    for one in claim["conditions"]:
        found = check_condition(Condition(**_plain_condition(one)), figures)
        conditions.append(
            ConditionRow(**asdict(found.condition), mean=found.mean, lower=found.lower, holds=found.holds)
        )
    summary = summarise(
        [run["baseline"] for run in seeds],
        [run["ours"] for run in seeds],
        better=claim["better"],
        margin=claim["margin"],
        kind=claim["kind"],
        conditions=[one["holds"] for one in conditions],
    )
    return Judgement(**asdict(summary), conditions=conditions)


def is_finite(value: Any) -> bool:
    """Whether all numbers in plain values are finite."""
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
