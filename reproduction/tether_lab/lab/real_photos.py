"""Claims measured once more on real photographs, as ``benchmarks/real_photos`` stored them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.shape import NUMBER
from tether.core.shape import check as fits
from tether_lab.lab import source_index
from tether_lab.lab.card import Claim
from tether_lab.lab.history import commit
from tether_lab.lab.reproduce import machine, versions
from tether_lab.lab.stored_result import SEEDS, SUMMARY, asked, check_verdict, judged

FILE = "real-photos.json"
_ROW = {
    **dict.fromkeys(("says", "metric", "better", "kind", "baseline", "equal", "scale", "differs", "commit"), str),
    "margin": NUMBER,
    "cpu_seconds": NUMBER,
    "data?": {"*": str},
    **SUMMARY,
}
_SHAPE = {"bench": str, "machine": {"*": (str, int)}, "versions": {"*": str}, "rows": {"*": _ROW}}


def result(
    claim: Claim, seeds: Sequence[Mapping[str, Any]], *, differs: str, data: Mapping[str, str]
) -> dict[str, Any]:
    """One row as the file holds it.

    Args:
        claim: that was fixed before the seeds ran.
        seeds: of each its number, ``baseline``, ``ours``, ``notes`` and ``cpu_seconds``.
        differs: what is other than in the card's own check.
        data: SHA-256 of each file by its name; rows measured before 2026-11-28 have none.
    """
    row = asked(claim)
    return {
        **row,
        **judged(row, seeds),
        "differs": differs,
        "data": dict(data),
        "seeds": list(seeds),
        "cpu_seconds": round(sum(one["cpu_seconds"] for one in seeds), 2),
        "commit": commit("benchmarks/real_photos"),
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def collected(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The whole file: rows by slug, and on what they were measured."""
    return {
        "bench": "real-photos",
        "machine": machine("cpu"),
        "versions": versions(),
        "rows": {slug: found[slug] for slug in sorted(found)},
    }


def stored(*, path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Rows by slug from ``path`` (default: with the other results); none where there is no file.

    Raises:
        InputError: a file of another shape, other seeds, or a verdict that the seeds do not give.
    """
    path = path or source_index.results_folder() / FILE
    if not path.is_file():
        return {}
    found = read_json(path)
    fits(found, _SHAPE, where=str(path))
    for slug, row in found["rows"].items():
        numbers = [run.get("seed") for run in row["seeds"]]
        if numbers != list(SEEDS):
            raise InputError(f"{path}: {slug}: expected the seeds {list(SEEDS)}, got {numbers}")
        check_verdict(row, row, where=f"{path}: {slug}: ")
    return found["rows"]
