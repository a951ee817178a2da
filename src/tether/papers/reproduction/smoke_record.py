"""The figures of all smoke trials on record: code that was moved computes the same if they stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from tether.core.atomic_io import write_json
from tether.core.shape import read_record
from tether.papers.reproduction import source_index
from tether.papers.reproduction.history import commit
from tether.papers.reproduction.reproduce import machine, versions
from tether.papers.reproduction.results import ELSEWHERE, ELSEWHERE_BESIDE, made_here, moved
from tether.papers.reproduction.stored_result import SMOKE_FIGURES, Figures

FILE = "smoke-figures.json"


class SmokeRecord(TypedDict):
    """Figures by slug, the commit and the machine that gave them."""

    commit: str
    machine: dict[str, Any]
    versions: dict[str, str]
    papers: dict[str, Figures]


SHAPE = {
    "commit": str,
    "machine": {"*": (str, int, None)},
    "versions": {"*": str},
    "papers": {"*": SMOKE_FIGURES},
}


def stored_record(path: Path | None = None) -> SmokeRecord | None:
    """The record of ``results/``, or of another file; None where there is none.

    Raises:
        InputError: a file that is malformed.
    """
    found = read_record(path or source_index.results_folder() / FILE, SHAPE)
    return SmokeRecord(**found) if found else None


def store(figures: Mapping[str, Figures], *, path: Path) -> None:
    """Put the figures of one thread of this machine's CPU on record, in place of those of before."""
    papers = {slug: figures[slug] for slug in sorted(figures)}
    write_json(path, SmokeRecord(commit=commit(), machine=machine("cpu"), versions=versions(), papers=papers))


def is_this_machine(record: SmokeRecord) -> bool:
    """Whether figures must be those of the record to the last bit: the same processor, kernels and libraries."""
    return record["machine"] == machine("cpu") and record["versions"] == versions()


def differences(record: SmokeRecord, slug: str, today: Figures) -> list[str]:
    """The figures of a paper that are others than on record, in words.

    On the machine of the record every difference counts, on another one of its kind what ``results.moved`` does not
    allow; ``results.moved`` has wide bounds for the rest.

    Args:
        record: as ``stored_record`` gives it.
        slug: of the paper.
        today: measured now.
    """
    before = record["papers"].get(slug)
    if before is None:
        return ["not on record"]
    if is_this_machine(record):
        old, new = _flat(before), _flat(today)
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        return [f"{name}: was {old.get(name, 'not measured')}, is {new.get(name, 'not measured')}" for name in names]
    wide = {} if made_here(record) else {"relative": ELSEWHERE, "beside": ELSEWHERE_BESIDE}
    return moved(before, today, **wide)


def _flat(figures: Figures) -> dict[str, float]:
    traced = {f"trace {name}": value for name, value in figures.get("trace", {}).items()}
    return {"baseline": figures["baseline"], "ours": figures["ours"], **figures["notes"], **traced}
