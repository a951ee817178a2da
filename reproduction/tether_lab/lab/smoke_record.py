"""The figures of all smoke trials on record: code that was moved computes the same if they stay the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tether.core.atomic_io import write_json
from tether.core.errors import InputError
from tether.core.shape import read_record
from tether_lab.lab import source_index
from tether_lab.lab.history import commit
from tether_lab.lab.reproduce import machine, versions
from tether_lab.lab.stored_result import SMOKE_FIGURES, Figures, is_finite

FILE = "smoke-figures.json"
NEAR_A_TIE = {("maft-plus", "novel_no_compensation"): (0, 100), ("cliptex", "depth_less"): (-0.1, 0.1)}
"""Figures that another kind of machine gives anywhere in a range. After so few steps MAFT+'s novel classes without
compensation stand level with the others, and hardly a pixel or many go to them (14.3 % here, 0 with torch 2.15);
CLIPTeX's errors of depth lie 0.3 % apart here, and -0.6 to -2.4 % with other kernels and torch 2.15."""


class Origin(TypedDict):
    """What gave figures: commit, machine and libraries."""

    commit: str
    machine: dict[str, Any]
    versions: dict[str, str]


class SmokeRecord(Origin):
    """Figures by slug; ``apart`` has the origin of those that were stored by themselves, later than the others."""

    papers: dict[str, Figures]
    apart: NotRequired[dict[str, Origin]]


_ORIGIN = {
    "commit": str,
    "machine": {"processor": str, "*": (str, int, None)},
    "versions": {"torch": str, "*": str},
}
SHAPE = _ORIGIN | {"papers": {"*": SMOKE_FIGURES}, "apart?": {"*": _ORIGIN}}


def stored_record(path: Path | None = None) -> SmokeRecord | None:
    """The record of ``reproduction/results``, or of another file; None where there is none.

    Raises:
        InputError: a file that is malformed.
    """
    found = read_record(path or source_index.results_folder() / FILE, SHAPE)
    if found and not is_finite(found):
        raise InputError(f"{path or source_index.results_folder() / FILE}: expected finite numbers")
    return SmokeRecord(**found) if found else None


def store(figures: Mapping[str, Figures], *, path: Path, beside: SmokeRecord | None = None) -> None:
    """Put the figures of one thread of this machine's CPU on record.

    Args:
        figures: by slug.
        path: of the record.
        beside: the record whose other figures stay; without one they are forgotten.
    """
    origin = Origin(commit=commit(), machine=machine("cpu"), versions=versions())
    papers = {**(beside["papers"] if beside else {}), **figures}
    papers = {slug: papers[slug] for slug in sorted(papers)}
    if beside is None:
        write_json(path, SmokeRecord(**origin, papers=papers))
        return
    apart = {**beside.get("apart", {}), **dict.fromkeys(figures, origin)}
    write_json(path, beside | {"papers": papers, "apart": {slug: apart[slug] for slug in sorted(apart)}})


def origin_of(record: SmokeRecord, slug: str) -> Origin:
    """What gave the figures of a paper on record."""
    return record.get("apart", {}).get(slug, record)


def is_this_machine(record: Origin) -> bool:
    """Whether figures must be those of the record to the last bit: the same processor, kernels and libraries."""
    return record["machine"] == machine("cpu") and record["versions"] == versions()


def differences(record: SmokeRecord, slug: str, today: Figures) -> list[str]:
    """The figures of a paper that are others than on record, in words.

    On the machine of the record every difference counts. Elsewhere ``moved`` decides: within its narrow bounds on a
    machine of the same kind, within its wide ones on another.

    Args:
        record: as ``stored_record`` gives it.
        slug: Slug of the paper.
        today: measured now.
    """
    before = record["papers"].get(slug)
    if before is None:
        return ["not on record"]
    origin = origin_of(record, slug)
    if is_this_machine(origin):
        old, new = _flat(before), _flat(today)
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        return [f"{name}: was {old.get(name, 'not measured')}, is {new.get(name, 'not measured')}" for name in names]
    wide = {} if made_here(origin) else {"relative": ELSEWHERE, "beside": ELSEWHERE_BESIDE}
    return moved(before, today, **wide)


def has_moved(record: SmokeRecord | None, result: Mapping[str, Any]) -> bool:
    """Whether the trial of a result gives other figures by the record, or none is known of it.

    Args:
        record: as ``stored_record`` gives it; without one nothing has moved.
        result: as a paper's ``result.json`` holds it.
    """
    if record is None:
        return False
    if result["smoke"] is None or result["slug"] not in record["papers"]:
        return True
    today = record["papers"][result["slug"]]
    if alike(origin_of(record, result["slug"]), result):
        return moved(result["smoke"], today) != []
    before, notes = result["smoke"]["notes"], dict(today["notes"])
    notes |= {name: before[name] for name in notes if (result["slug"], name) in NEAR_A_TIE}
    today = Figures(baseline=today["baseline"], ours=today["ours"], notes=notes)
    return moved(result["smoke"], today, relative=ELSEWHERE, beside=ELSEWHERE_BESIDE) != []


RELATIVE, ABSOLUTE, BESIDE = 0.05, 1e-4, 5e-4
"""How far a figure may lie from the stored one, as a share of it, and for one near 0: so much, or this share of the
largest of the trial, as it may be a difference of large ones, but no more than half of itself.

Between AVX-512 with one thread and AVX2 with two, nearly all figures of smoke trials differ by less than 1e-5 of
themselves, ill-conditioned ones (ratios of eigenvalues, agreements after two steps) by 3e-3, and a share of a few
hundred images by one or two images, which was 0.026 at most.
"""
ELSEWHERE, ELSEWHERE_BESIDE = 0.5, 0.05
"""The same on another kind of machine, where a training may end elsewhere: a figure keeps its sign and, unless it is
small beside the others, its size. With kernels without vectors (``ATEN_CPU_CAPABILITY=default``) figures of ten of 119
trials left the narrow bounds on the machine that had stored them, and one of them these: cliptex's ``depth_less``."""


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two kinds of machine are alike: maker of the processor, torch's kernels, torch's release.

    Args:
        one: with ``machine`` and ``versions``, as results and the record have them.
        other: likewise.
    """

    def kind(made: Mapping[str, Any]) -> tuple[list[str], str, list[str]]:
        # Results from before the kernels were recorded are taken for AVX512's, which the machines that made them have.
        maker, release = made["machine"]["processor"].split()[:1], made["versions"]["torch"].split(".")[:2]
        return maker, made["machine"].get("kernels", "AVX512"), release

    return kind(one) == kind(other)


def made_here(result: Mapping[str, Any]) -> bool:
    """Whether a stored result is of this kind of machine."""
    return alike({"machine": machine("cpu"), "versions": versions()}, result)


def moved(
    before: Mapping[str, Any], today: Mapping[str, Any], *, relative: float = RELATIVE, beside: float = BESIDE
) -> list[str]:
    """The figures of two smoke trials of one paper that differ by more than the tolerance, in words.

    Args:
        before: ``baseline``, ``ours`` and ``notes`` as a result holds them, and perhaps ``trace``.
        today: the same, measured now.
        relative: share of a figure by which it may differ.
        beside: share of the largest figure of the trial by which each may differ besides.
    """

    def outside(old: Mapping[str, float], new: Mapping[str, float]) -> list[str]:
        largest = max((abs(value) for value in old.values() if math.isfinite(value)), default=0)
        found = []
        for name in old.keys() & new.keys():
            half = abs(old[name]) / 2 or math.inf  # so that no figure turns its sign; 0 has none
            near = max(ABSOLUTE, min(beside * largest, half))
            if not abs(new[name] - old[name]) <= relative * max(abs(old[name]), abs(new[name])) + near:
                found.append(f"{name}: was {old[name]:.6g}, is {new[name]:.6g}")
        once = old.keys() ^ new.keys()
        return found + [f"{name}: only measured {'before' if name in old else 'now'}" for name in once]

    old, new = ({"baseline": one["baseline"], "ours": one["ours"], **one["notes"]} for one in (before, today))
    found = outside(old, new)
    if "trace" in before and "trace" in today:
        found += [f"trace: {words}" for words in outside(before["trace"], today["trace"])]
    return sorted(found)


def _flat(figures: Figures) -> dict[str, float]:
    traced = {f"trace {name}": value for name, value in figures.get("trace", {}).items()}
    return {"baseline": figures["baseline"], "ours": figures["ours"], **figures["notes"], **traced}
