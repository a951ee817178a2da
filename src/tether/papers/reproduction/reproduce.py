"""Run a paper's check over paired seeds and keep what was measured."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tether.core.atomic_io import cache_dir, read_json, write_json
from tether.core.card import Card, Condition, Trial
from tether.core.errors import InputError
from tether.core.fingerprint import SourceTrees
from tether.core.shape import NUMBER
from tether.core.shape import check as fits
from tether.papers.cards import card as find_card
from tether.papers.cards import module
from tether.papers.reproduction import source_index
from tether.papers.reproduction.history import commit, is_commit
from tether.papers.reproduction.lab import Lab
from tether.papers.reproduction.verdict import check_condition, summarise

SEEDS, FRESH_SEEDS = (0, 1, 2, 3, 4), (5, 6, 7)
"""A verdict rests on the first, whoever asks; the others show what it is worth on seeds that no card was tuned on."""
LIBRARIES = ("tether-clip", "torch", "numpy", "scikit-learn", "open_clip_torch", "pyarrow")
Progress = Callable[[int, int | None], None]
_TRIAL = {"baseline": NUMBER, "ours": NUMBER, "notes": {"*": NUMBER}}
_RUN = {"seed": int, **_TRIAL, "wall_seconds": NUMBER, "cpu_seconds": NUMBER, "commit": str, "measured": str}
_CONDITION = {"says": str, "holds": bool, "mean": NUMBER, "lower": NUMBER}
SUMMARY = {
    **dict.fromkeys(("mean", "lower", "upper"), NUMBER),
    "verdict": str,
    "conditions": [_CONDITION],
    "seeds": [_TRIAL],
}
_RESULT = {
    **dict.fromkeys(("slug", "metric", "better", "kind", "fingerprint", "commit"), str),
    "margin": NUMBER,
    "smoke": (None, _TRIAL),
    "fresh": (None, SUMMARY),
    **SUMMARY,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One seed as it was measured.

    Attributes:
        seed: of the lab.
        baseline: the metric without the method.
        ours: the metric with it.
        notes: side figures by name.
        wall_seconds: elapsed time of this seed.
        cpu_seconds: processor time of this process for this seed, all threads.
        commit: of the checkout when it was measured; see ``commit``.
        measured: the day, as YYYY-MM-DD.
    """

    seed: int
    baseline: float
    ours: float
    notes: dict[str, float]
    wall_seconds: float
    cpu_seconds: float
    commit: str
    measured: str


def reproduce(
    slug: str,
    *,
    smoke: bool = False,
    fresh_seeds: bool = False,
    device: str = "cpu",
    threads: int = 1,
    fresh: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure one paper over ``SEEDS`` and return its result, as ``results/<slug>.json`` holds it.

    A finished seed is kept in the cache under the fingerprint of the source, the libraries and the machine, so an
    interrupted reproduction resumes; so do the seeds of the stored result while none of these has changed. Kept
    seeds that are damaged, or were measured with changed files where there are none now, are measured again. A smoke
    run takes seconds, looks at seed 0 alone, keeps nothing and has no verdict; the one made by the same code stands in
    every result, so that a test can tell at any time whether the figures have moved since.

    Args:
        slug: of the paper.
        smoke: run the whole path with as little as possible.
        fresh_seeds: measure ``FRESH_SEEDS`` besides; they stand beside the verdict and do not enter it.
        device: for the lab.
        threads: of torch on the CPU.
        fresh: measure every seed again.
        on_progress: called after each seed with (seeds done, of so many).

    Raises:
        InputError: no such paper, or a trial that is not finite.
    """
    card = find_card(slug)
    sources = source_index.sources()
    print_ = source_index.fingerprint(card, sources=sources)
    sources.save()
    where = {"device": device, "threads": threads, "machine": machine(device), "versions": versions()}
    where["fingerprint"] = print_
    if smoke:
        runs = [_measure(slug, Lab(0, smoke=True, device=device, threads=threads))]
        if on_progress:
            on_progress(1, 1)
        return _result(card, runs, None, where=where)
    kept = {} if fresh else _known_runs(slug, where=where)
    digest = hashlib.sha256(json.dumps(where, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_dir() / "reproduce" / slug / digest
    wanted = (*SEEDS, *(FRESH_SEEDS if fresh_seeds else ()))
    for number, seed in enumerate(wanted):
        path = folder / f"seed-{seed}.json"
        if seed not in kept:
            known = None if fresh else _known_run(path, seed=seed)
            kept[seed] = known or _measure(slug, Lab(seed, device=device, threads=threads))
            write_json(path, asdict(kept[seed]))
        if on_progress:
            on_progress(number + 1, len(wanted))
    runs = [kept[seed] for seed in SEEDS]
    more = [kept[seed] for seed in FRESH_SEEDS] if kept.keys() >= set(FRESH_SEEDS) else []
    return _result(card, runs, smoke_trial(slug), more=more, where=where)


def _known_runs(slug: str, *, where: Mapping[str, Any]) -> dict[int, Run]:
    """Seeds of the stored result by number, if the same code and libraries measured them on such a machine."""
    path = source_index.result_path(slug)
    if path is None or not path.is_file():
        return {}
    try:
        result = read_json(path)
        fits(result, {"seeds": [_RUN], "fresh": (None, {"seeds": [_RUN]})}, where=slug)
    except InputError:
        return {}
    if any(result.get(name) != value for name, value in where.items()):
        return {}
    found = [*result["seeds"], *(result["fresh"] or {"seeds": []})["seeds"]]
    return {run["seed"]: _as_run(run) for run in found if _is_good(run)}


def _known_run(path: Path, *, seed: int) -> Run | None:
    """The seed that a file of the cache holds; None where there is none, or not this one whole."""
    try:
        run = read_json(path)
        fits(run, _RUN, where=str(path))
    except (InputError, OSError):
        return None
    return _as_run(run) if run["seed"] == seed and _is_good(run) else None


def _as_run(run: Mapping[str, Any]) -> Run:
    return Run(**{name: run[name] for name in _RUN})


def _is_good(run: Mapping[str, Any]) -> bool:
    """Whether a kept seed is as good as one measured now: finite, and from a commit if there is one to measure from."""
    return _is_finite(run) and (is_commit(run["commit"]) or not is_commit(commit()))


def _is_finite(value: Any) -> bool:
    """Whether all numbers in plain values are finite."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def smoke_trial(slug: str) -> dict[str, Any]:
    """The figures of a paper's smoke run of seed 0 on the CPU, as a result holds them."""
    run = asdict(_measure(slug, Lab(0, smoke=True)))
    return {name: run[name] for name in _TRIAL}


def changed(card: Card, result: dict[str, Any], *, sources: SourceTrees) -> bool:
    """Whether the code that decides a card's figures is another than when they were measured.

    Whether the figures have moved with it is another question, which the smoke trial in the result answers; a result
    without one counts as changed.
    """
    return result["smoke"] is None or result["fingerprint"] != source_index.fingerprint(card, sources=sources)


def stored(slug: str, *, folder: Path | None = None) -> dict[str, Any] | None:
    """The stored result of a paper from ``folder`` (default: the checkout's), or None."""
    path = folder / f"{slug}.json" if folder else source_index.result_path(slug)
    if path is None or not path.is_file():
        return None
    result = read_json(path)
    check(result, where=str(path))
    return result


def check(result: Any, *, where: str) -> None:
    """See that a stored result is whole and that its verdict follows from its own numbers.

    Raises:
        InputError: a missing key, or a figure or verdict that the seeds do not give.
    """
    if not isinstance(result, dict) or not _RESULT.keys() <= result.keys():
        missing = sorted(_RESULT.keys() - result.keys()) if isinstance(result, dict) else sorted(_RESULT)
        raise InputError(f"{where}: not a result, these keys are missing: {', '.join(missing)}")
    if result["smoke"] is True:
        raise InputError(f"{where}: this is a smoke run, which has no verdict; run it in full")
    fits(result, _RESULT, where=where)
    for part, name in ((result, ""), (result["fresh"], "fresh: ")):
        if part is not None:
            check_verdict(result, part, where=f"{where}: {name}")


def check_verdict(claim: Mapping[str, Any], part: Mapping[str, Any], *, where: str) -> None:
    """See that what is said of seeds follows from them, verdict and conditions.

    Raises:
        InputError: a figure or verdict that the seeds do not give.
    """
    found = judged(claim, part["seeds"])
    _compare(part, found, keys=("mean", "lower", "upper", "verdict"), where=where)
    for one, again in zip(part["conditions"], found["conditions"], strict=True):
        _compare(one, again, keys=("mean", "lower", "holds"), where=f"{where}{one['says']!r}: ")


def _compare(kept: Mapping[str, Any], found: Mapping[str, Any], *, keys: Iterable[str], where: str) -> None:
    for key in keys:
        old, new = kept[key], found[key]
        near = type(old) in NUMBER and type(new) in NUMBER and abs(old - new) <= 1e-9 * max(1.0, abs(new))
        if old != new and not near:  # NaN is neither
            raise InputError(f"{where}{key} is {old!r}, its seeds give {new!r}")


def judged(claim: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What seeds say of a claim, both as a result holds them."""
    figures = [{"baseline": run["baseline"], "ours": run["ours"], **run["notes"]} for run in seeds]
    conditions: list[dict[str, Any]] = []
    for one in claim["conditions"]:
        condition = Condition(**{field.name: one[field.name] for field in fields(Condition)})
        found = check_condition(condition, figures)
        conditions.append(asdict(condition) | {"mean": found.mean, "lower": found.lower, "holds": found.holds})
    summary = summarise(
        [run["baseline"] for run in seeds],
        [run["ours"] for run in seeds],
        better=claim["better"],
        margin=claim["margin"],
        kind=claim["kind"],
        conditions=[one["holds"] for one in conditions],
    )
    return asdict(summary) | {"conditions": conditions}


def _measure(slug: str, lab: Lab) -> Run:
    with lab:
        wall, cpu = time.perf_counter(), time.process_time()
        trial = module(slug).reproduce(lab)
    if not isinstance(trial, Trial):
        raise InputError(f"{slug}: reproduce must return a Trial, got {type(trial).__name__}")
    return Run(
        lab.seed,
        float(trial.baseline),
        float(trial.ours),
        {name: float(value) for name, value in trial.notes.items()},
        round(time.perf_counter() - wall, 2),
        round(time.process_time() - cpu, 2),
        commit(),
        datetime.now(UTC).strftime("%Y-%m-%d"),
    )


def _result(
    card: Card,
    runs: Sequence[Run],
    trial: dict[str, Any] | None,
    *,
    more: Sequence[Run] = (),
    where: Mapping[str, Any],
) -> dict[str, Any]:
    claim = asdict(card.claim) | {"conditions": [asdict(one) for one in card.claim.conditions]}
    seeds, fresh = [asdict(run) for run in runs], [asdict(run) for run in more]
    empty = {"verdict": None, "mean": None, "lower": None, "upper": None}
    return {
        "slug": card.slug,
        **claim,
        "smoke": True if trial is None else trial,
        **(empty if trial is None else judged(claim, seeds)),
        "seeds": seeds,
        "fresh": judged(claim, fresh) | {"seeds": fresh} if fresh else None,
        "wall_seconds": round(sum(run.wall_seconds for run in runs), 2),
        "cpu_seconds": round(sum(run.cpu_seconds for run in runs), 2),
        **where,
        "commit": commit(),
        "measured": max(run.measured for run in runs),
    }


def machine(device: str) -> dict[str, Any]:
    """Processor, cores and accelerator in words; no host or user names."""
    import os

    described: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    if device.startswith("cuda"):
        import torch

        described["accelerator"] = torch.cuda.get_device_name(device)
    return described


def versions() -> dict[str, str]:
    """Python and the libraries whose version can change a figure."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
