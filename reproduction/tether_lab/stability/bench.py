"""All runs of the bench: planned, done once and cached, so that an interrupted bench resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge

from tether.core.atomic_io import read_json, write_json
from tether.core.cache_folder import cache_dir
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.workflows.clipper_comparison.trace import RunTrace
from tether_lab.lab import source_index
from tether_lab.stability.faults import FAULTS
from tether_lab.stability.guard import Guard
from tether_lab.stability.guards import NONE, USUAL, guards
from tether_lab.stability.models import MODELS
from tether_lab.stability.runs import STEPS, BenchRun, run

QUICK_STEPS, QUICK_SEEDS, QUICK_MODELS = 20, 2, ("language",)
RUN = "tether_lab.stability.runs"

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
        kept: guards that are not run, for a stored result has their rows; ``none`` runs without a fault even so, since
            the steps that others lost are counted against it.
    """

    models: tuple[str, ...]
    faults: tuple[str, ...]
    guards: dict[str, Guard]
    seeds: tuple[int, ...]
    steps: int
    kept: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many runs."""
        return sum(1 for _ in self.cells())

    def cells(self) -> Iterator[tuple[str, str, Guard, int]]:
        """Model, fault, guard and seed of each run; all guards of one seed stand together."""
        for model in self.models:
            for fault in self.faults:
                for seed in self.seeds:
                    for name, guard in self.guards.items():
                        if name not in self.kept or (name, fault) == (NONE, "clean"):
                            yield model, fault, guard, seed

    @property
    def new(self) -> dict[str, Guard]:
        """The guards that are not kept."""
        return {name: guard for name, guard in self.guards.items() if name not in self.kept}


@checked
def plan(
    *,
    models: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: Annotated[int, Ge(2)] = 3,
    steps: Annotated[int, Ge(20)] = STEPS,
) -> BenchPlan:
    """The whole bench, or a part of it.

    Args:
        models: names in ``MODELS``; empty for all.
        only: names of guards, of faults, or both; empty for all. ``none``, ``global_norm`` and the fault ``clean``,
            which the others are compared with, are always there.
        seeds: how many, from 0 on; below two nothing can be said about a difference.
        steps: of each run.
    """
    every = guards()
    for name in models:
        if name not in MODELS:
            raise InputError(f"--models: unknown model {name!r}; {closest(name, MODELS)}")
    for name in only:
        if name not in every and name not in FAULTS:
            known = closest(name, [*FAULTS, *every])
            raise InputError(f"--only: neither a fault nor a guard is called {name!r}; {known}")
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
    paths, cells = _paths(wanted), list(wanted.cells())
    found = {} if fresh else {at: _read(path) for at, path in enumerate(paths) if path.is_file()}
    missing = {at: (paths[at], *cell, wanted.steps) for at, cell in enumerate(cells) if at not in found}
    on_progress = on_progress or (lambda done, total: None)
    on_progress(len(found), len(cells))
    for number, outcome in _work(missing, jobs=jobs):
        found[number] = outcome
        on_progress(len(found), len(cells))
    return [found[number] for number in range(len(cells))]


def are_cached(wanted: BenchPlan) -> bool:
    """Whether no run of a plan is still to be done."""
    return all(path.is_file() for path in _paths(wanted))


def prints(some: Mapping[str, Guard]) -> dict[str, str]:
    """What decides the runs of each guard: its settings and class, the bench's own run, all they import, and torch.

    A new clipper or optimiser changes no other's, for a run is given its guard and imports no registry of them.
    """
    sources = source_index.sources()
    found = {}
    for name, guard in some.items():
        homes = map(sources.home, (RUN, f"{guard.part.__module__}.{guard.part.__qualname__}"))
        code = sources.fingerprint(filter(None, homes))
        facts = [torch.__version__, repr(guard.described()), code]
        found[name] = hashlib.blake2b("\0".join(facts).encode(), digest_size=12).hexdigest()
    sources.save()
    return found


def _work(missing: Mapping[int, tuple[Any, ...]], *, jobs: int) -> Iterator[tuple[int, BenchRun]]:
    if jobs == 1 or len(missing) < 2:
        for number, cell in missing.items():
            yield number, _run_and_cache(*cell)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting = {pool.submit(_run_and_cache, *cell): number for number, cell in missing.items()}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_and_cache(path: Path, model: str, fault: str, guard: Guard, seed: int, steps: int) -> BenchRun:
    from tether.workflows.clipper_comparison.costs import one_thread

    with one_thread():
        outcome = run(model, fault=fault, guard=guard, seed=seed, steps=steps)
    write_json(path, asdict(outcome))
    return outcome


def _paths(wanted: BenchPlan) -> list[Path]:
    """Where each run of a plan is kept."""
    code, folder = prints(wanted.guards), cache_dir() / "stability"
    return [
        folder / f"{model}-{fault}-{guard.name}-{wanted.steps}-{code[guard.name]}" / f"seed-{seed}.json"
        for model, fault, guard, seed in wanted.cells()
    ]


def _read(path: Path) -> BenchRun:
    values = tuples(read_json(path))
    return BenchRun(**values | {"trace": RunTrace(**values["trace"])})


def tuples(value: Any) -> Any:
    """Values as JSON gives them, with tuples for lists."""
    if isinstance(value, dict):
        return {key: tuples(one) for key, one in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value
