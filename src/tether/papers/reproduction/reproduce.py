"""Run a paper's check over paired seeds and keep what was measured."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tether.core.atomic_io import cache_dir, read_json, write_json
from tether.core.card import Card, Trial
from tether.core.errors import InputError
from tether.core.fingerprint import SourceTrees
from tether.core.shape import NUMBER
from tether.core.shape import check as fits
from tether.papers.cards import card as find_card
from tether.papers.cards import module
from tether.papers.reproduction import source_index
from tether.papers.reproduction.lab import Lab
from tether.papers.reproduction.verdict import LEAST_SEEDS, summarise

LIBRARIES = ("tether-clip", "torch", "numpy", "scikit-learn", "open_clip_torch", "pyarrow")
Progress = Callable[[int, int | None], None]
_TRIAL = {"baseline": NUMBER, "ours": NUMBER, "notes": {"*": NUMBER}}
_RESULT = {
    **dict.fromkeys(("slug", "metric", "better", "verdict", "fingerprint"), str),
    **dict.fromkeys(("margin", "mean", "lower"), NUMBER),
    "smoke": (None, _TRIAL),
    "seeds": [_TRIAL],
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
    """

    seed: int
    baseline: float
    ours: float
    notes: dict[str, float]
    wall_seconds: float
    cpu_seconds: float


def reproduce(
    slug: str,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    smoke: bool = False,
    device: str = "cpu",
    threads: int = 1,
    fresh: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure one paper and return its result, as ``results/<slug>.json`` holds it.

    A finished seed is kept in the cache under the fingerprint of the source, so an interrupted reproduction
    resumes. A smoke run takes seconds, keeps nothing and has no verdict; the one of seed 0, made by the same
    code, stands in every result, so that a test can tell at any time whether the figures have moved since.

    Args:
        slug: of the paper.
        seeds: distinct; at least three unless ``smoke``.
        smoke: run the whole path with as little as possible.
        device: for the lab.
        threads: of torch on the CPU.
        fresh: measure every seed again.
        on_progress: called after each seed.

    Raises:
        InputError: no such paper, too few or repeated seeds, or a trial that is not finite.
    """
    card = find_card(slug)
    if len(set(seeds)) != len(seeds):
        raise InputError(f"{slug}: expected distinct seeds, got {list(seeds)}")
    if not smoke and len(seeds) < LEAST_SEEDS:
        raise InputError(f"{slug}: a verdict needs at least {LEAST_SEEDS} paired seeds, got {len(seeds)}")
    sources = source_index.sources()
    print_ = source_index.fingerprint(card, sources=sources)
    sources.save()
    runs: list[Run] = []
    for number, seed in enumerate(seeds):
        kept = cache_dir() / "reproduce" / slug / f"{print_}-{device}-{threads}" / f"seed-{seed}.json"
        if not smoke and not fresh and kept.is_file():
            runs.append(Run(**read_json(kept)))
        else:
            runs.append(_measure(slug, Lab(seed, smoke=smoke, device=device, threads=threads)))
            if not smoke:
                write_json(kept, asdict(runs[-1]))
        if on_progress:
            on_progress(number + 1, len(seeds))
    trial = None if smoke else smoke_trial(slug)
    return _result(card, runs, trial, device=device, threads=threads, fingerprint=print_)


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
    needed = {"slug", "metric", "better", "margin", "seeds", "verdict", "mean", "lower", "fingerprint", "smoke"}
    if not isinstance(result, dict) or not needed <= result.keys():
        missing = sorted(needed - result.keys()) if isinstance(result, dict) else sorted(needed)
        raise InputError(f"{where}: not a result, these keys are missing: {', '.join(missing)}")
    if result["smoke"] is True:
        raise InputError(f"{where}: this is a smoke run, which has no verdict; run it in full")
    fits(result, _RESULT, where=where)
    summary = summarise(
        [run["baseline"] for run in result["seeds"]],
        [run["ours"] for run in result["seeds"]],
        better=result["better"],
        margin=result["margin"],
    )
    for name, value in (("mean", summary.mean), ("lower", summary.lower)):
        if not abs(result[name] - value) <= 1e-9 * max(1.0, abs(value)):  # NaN is not equal
            raise InputError(f"{where}: {name} is {result[name]}, its seeds give {value}")
    if result["verdict"] != summary.verdict:
        raise InputError(f"{where}: verdict is {result['verdict']!r}, its seeds give {summary.verdict!r}")


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
    )


def _result(
    card: Card, runs: Sequence[Run], trial: dict[str, Any] | None, *, device: str, threads: int, fingerprint: str
) -> dict[str, Any]:
    claim = card.claim
    result: dict[str, Any] = {
        "slug": card.slug,
        "says": claim.says,
        "metric": claim.metric,
        "better": claim.better,
        "margin": claim.margin,
        "baseline": claim.baseline,
        "scale": claim.scale,
        "smoke": True if trial is None else trial,
        "verdict": None,
        "mean": None,
        "lower": None,
        "seeds": [asdict(run) for run in runs],
        "wall_seconds": round(sum(run.wall_seconds for run in runs), 2),
        "cpu_seconds": round(sum(run.cpu_seconds for run in runs), 2),
        "device": device,
        "threads": threads,
        "machine": machine(device),
        "versions": versions(),
        "commit": commit(),
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "fingerprint": fingerprint,
    }
    if trial is not None:
        summary = summarise(
            [run.baseline for run in runs], [run.ours for run in runs], better=claim.better, margin=claim.margin
        )
        result |= {"verdict": summary.verdict, "mean": summary.mean, "lower": summary.lower}
    return result


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


def commit() -> str:
    """The checkout's commit, with ``+`` when files are changed; ``unknown`` outside git."""
    root = source_index.checkout()
    if root is None:
        return "unknown"
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
