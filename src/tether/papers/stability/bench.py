"""All runs of the bench: planned, done once, kept on disk, so that an interrupted bench goes on where it stopped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tether.core.atomic_io import cache_dir, read_json, write_json
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.fingerprint import code_of
from tether.papers.stability.faults import FAULTS
from tether.papers.stability.guards import NONE, USUAL, Guard, digest, guards
from tether.papers.stability.models import MODELS
from tether.papers.stability.runs import STEPS, BenchRun, run

LEAST_SEEDS = 2
"""Below two seeds nothing can be said about a difference."""
QUICK_STEPS, QUICK_SEEDS, QUICK_MODELS = 20, 2, ("language",)
FOLDER = Path(__file__).parent
_DECIDES = ("faults.py", "models.py", "runs.py")
"""The files of this folder whose code changes a run."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """Which runs there are to do.

    Attributes:
        models: names in ``MODELS``.
        faults: names in ``FAULTS``.
        guards: by name, among them always ``none`` and ``global_norm``.
        seeds: of weights and batches.
        steps: of each run.
    """

    models: tuple[str, ...]
    faults: tuple[str, ...]
    guards: dict[str, Guard]
    seeds: tuple[int, ...]
    steps: int

    def __len__(self) -> int:
        """How many runs."""
        return len(self.models) * len(self.faults) * len(self.guards) * len(self.seeds)

    def cells(self) -> Iterator[tuple[str, str, Guard, int]]:
        """Model, fault, guard and seed of each run; all guards of one seed stand together."""
        for model in self.models:
            for fault in self.faults:
                for seed in self.seeds:
                    for guard in self.guards.values():
                        yield model, fault, guard, seed


def plan(
    *,
    models: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: int = 3,
    steps: int = STEPS,
) -> BenchPlan:
    """The whole bench, or a part of it.

    Args:
        models: names in ``MODELS``; empty for all.
        only: names of guards, of faults, or both; empty for all. ``none``, ``global_norm`` and the fault ``clean``,
            which the others are compared with, are always there.
        seeds: how many, from 0 on (>= 2).
        steps: of each run (>= 20).

    Raises:
        InputError: an unknown name, or too few seeds or steps.
    """
    every = guards()
    for name in models:
        if name not in MODELS:
            raise InputError(f"--models: unknown model {name!r}; {closest(name, MODELS)}")
    for name in only:
        if name not in every and name not in FAULTS:
            raise InputError(
                f"--only: neither a fault nor a guard is called {name!r}; {closest(name, [*FAULTS, *every])}"
            )
    if seeds < LEAST_SEEDS:
        raise InputError(f"--seeds: expected at least {LEAST_SEEDS}, since guards are compared over seeds; got {seeds}")
    if steps < 20:
        raise InputError(f"steps: expected at least 20, got {steps}")
    some_guards = [name for name in every if name in only] or list(every)
    some_faults = [name for name in FAULTS if name in only] or list(FAULTS)
    return BenchPlan(
        models=tuple(name for name in MODELS if not models or name in models),
        faults=tuple(name for name in FAULTS if name == "clean" or name in some_faults),
        guards={name: guard for name, guard in every.items() if name in (NONE, USUAL) or name in some_guards},
        seeds=tuple(range(seeds)),
        steps=steps,
    )


def outcomes(
    wanted: BenchPlan, *, jobs: int = 1, fresh: bool = False, on_progress: Progress | None = None
) -> list[BenchRun]:
    """Every run of a plan, in its order; finished ones come from the cache.

    Args:
        wanted: what ``plan`` made.
        jobs: processes at work, of one thread each.
        fresh: do every run again.
        on_progress: called with the runs that are done and all there are.
    """
    cells = list(wanted.cells())
    found: dict[int, BenchRun] = {}
    missing = []
    for number, (model, fault, guard, seed) in enumerate(cells):
        path = _kept(model, fault, guard, seed, wanted.steps)
        if not fresh and path.is_file():
            found[number] = _read(path)
        else:
            missing.append((number, (model, fault, guard, seed, wanted.steps)))
    if on_progress:
        on_progress(len(found), len(cells))
    for number, outcome in _work(missing, jobs=jobs):
        found[number] = outcome
        if on_progress:
            on_progress(len(found), len(cells))
    return [found[number] for number in range(len(cells))]


def _work(missing: Sequence[tuple[int, tuple[Any, ...]]], *, jobs: int) -> Iterator[tuple[int, BenchRun]]:
    if jobs == 1 or len(missing) < 2:
        for number, cell in missing:
            yield number, _run_and_keep(*cell)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting = {pool.submit(_run_and_keep, *cell): number for number, cell in missing}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_and_keep(model: str, fault: str, guard: Guard, seed: int, steps: int) -> BenchRun:
    """One run with one thread; torch is left as it was."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = run(model, fault=fault, guard=guard, seed=seed, steps=steps)
    finally:
        torch.set_num_threads(threads)
    write_json(_kept(model, fault, guard, seed, steps), asdict(outcome))
    return outcome


def _kept(model: str, fault: str, guard: Guard, seed: int, steps: int) -> Path:
    name = digest([_code(), _guard_code(guard.name, guard.kind), str(steps)])
    return cache_dir() / "stability" / f"{model}-{fault}-{guard.name}-{name}" / f"seed-{seed}.json"


def _read(path: Path) -> BenchRun:
    values = read_json(path)
    plain = {field.name: values[field.name] for field in fields(BenchRun)}
    for name in ("losses", "norms", "thresholds", "scales"):
        plain[name] = tuple(plain[name])
    plain["looks"] = tuple((step, loss) for step, loss in plain["looks"])
    return BenchRun(**plain)


@functools.cache
def _code() -> str:
    return digest([code_of(FOLDER / name) for name in _DECIDES])


@functools.cache
def _guard_code(name: str, kind: str) -> str:
    return guards()[name].fingerprint()
