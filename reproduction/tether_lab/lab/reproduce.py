"""Run a paper's check over paired seeds and keep what was measured."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_json, write_json
from tether.core.cache_folder import cache_dir
from tether.core.errors import InputError
from tether.core.shape import check as fits
from tether_lab.lab import source_index
from tether_lab.lab.card import Card, Trial
from tether_lab.lab.history import commit, is_commit, was_fixed_before
from tether_lab.lab.lab import Lab
from tether_lab.lab.stored_result import (
    FRESH_SEEDS,
    SEED_ROW,
    SEEDS,
    Figures,
    SeedRow,
    asked,
    claim_digest,
    is_finite,
    judged,
    smoke_figures,
)
from tether_lab.lab.trace import SmokeTrace
from tether_lab.papers import card as find_card
from tether_lab.papers import module

LIBRARIES = ("tether-clip", "torch", "numpy", "scikit-learn", "open_clip_torch", "pyarrow")
Progress = Callable[[int, int | None], None]


def reproduce(
    slug: str,
    *,
    smoke: bool = False,
    fresh_seeds: bool = False,
    device: str = "cpu",
    threads: int = 1,
    fresh: bool = False,
    on_progress: Progress | None = None,
    on_measured: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Measure one paper over ``SEEDS`` and return its result, as a paper's ``result.json`` holds it.

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
        on_measured: called with each seed that is measured now, not for those that were kept.

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
            if known is None:
                known = _measure(slug, Lab(seed, device=device, threads=threads))
                if on_measured:
                    on_measured(seed)
            kept[seed] = known
            write_json(path, known)
        if on_progress:
            on_progress(number + 1, len(wanted))
    runs = [kept[seed] for seed in SEEDS]
    more = [kept[seed] for seed in FRESH_SEEDS] if kept.keys() >= set(FRESH_SEEDS) else []
    return _result(card, runs, smoke_trial(slug), more=more, where=where)


def _known_runs(slug: str, *, where: Mapping[str, Any]) -> dict[int, SeedRow]:
    """Seeds of the stored result by number, if the same code and libraries measured them on such a machine."""
    path = source_index.result_path(slug)
    if not path.is_file():
        return {}
    try:
        result = read_json(path)
        fits(result, {"seeds": [SEED_ROW], "fresh": (None, {"seeds": [SEED_ROW]})}, where=slug)
    except InputError:
        return {}
    if any(result.get(name) != value for name, value in where.items()):
        return {}
    found = [*result["seeds"], *(result["fresh"] or {"seeds": []})["seeds"]]
    return {run["seed"]: _only_row(run) for run in found if _is_good(run)}


def _known_run(path: Path, *, seed: int) -> SeedRow | None:
    """The seed that a file of the cache holds; None where there is none, or not this one whole."""
    try:
        run = read_json(path)
        fits(run, SEED_ROW, where=str(path))
    except (InputError, OSError):
        return None
    return _only_row(run) if run["seed"] == seed and _is_good(run) else None


def _only_row(run: Mapping[str, Any]) -> SeedRow:
    """A kept seed without keys of another version."""
    return SeedRow(**{name: run[name] for name in SEED_ROW})


def _is_good(run: Mapping[str, Any]) -> bool:
    """Whether a kept seed is as good as one measured now: finite, and from a commit if there is one to measure from."""
    return is_finite(run) and (is_commit(run["commit"]) or not is_commit(commit()))


def smoke_trial(slug: str) -> Figures:
    """The figures of a paper's smoke run of seed 0 on the CPU, as a result holds them."""
    return smoke_figures(_measure(slug, Lab(0, smoke=True)))


def _measure(slug: str, lab: Lab) -> SeedRow:
    trace = SmokeTrace()
    with lab, trace.open() if lab.smoke else contextlib.nullcontext():
        wall, cpu = time.perf_counter(), time.process_time()
        trial = module(slug).reproduce(lab)
    if not isinstance(trial, Trial):
        raise InputError(f"{slug}: reproduce must return a Trial, got {type(trial).__name__}")
    row = SeedRow(
        seed=lab.seed,
        baseline=float(trial.baseline),
        ours=float(trial.ours),
        notes={name: float(value) for name, value in trial.notes.items()},
        wall_seconds=round(time.perf_counter() - wall, 2),
        cpu_seconds=round(time.process_time() - cpu, 2),
        commit=commit(),
        measured=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    return SeedRow(**row, trace=trace.figures()) if lab.smoke else row


def _result(
    card: Card,
    runs: Sequence[SeedRow],
    trial: Figures | None,
    *,
    more: Sequence[SeedRow] = (),
    where: Mapping[str, Any],
) -> dict[str, Any]:
    claim = asked(card.claim)
    empty = {"verdict": None, "mean": None, "lower": None, "upper": None}
    found = {
        "slug": card.slug,
        **claim,
        "smoke": True if trial is None else trial,
        **(empty if trial is None else judged(claim, runs)),
        "seeds": list(runs),
        "fresh": {**judged(claim, more), "seeds": list(more)} if more else None,
        "wall_seconds": round(sum(run["wall_seconds"] for run in runs), 2),
        "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs), 2),
        **where,
        "commit": commit(),
        "measured": max(run["measured"] for run in runs),
    }
    return found | {"fixed_before": {"holds": was_fixed_before(card.slug, found), "claim": claim_digest(found)}}


def machine(device: str) -> dict[str, Any]:
    """Processor, cores and accelerator in words; no host or user names."""
    import os

    import torch

    described: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }
    if device.startswith("cuda"):
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
