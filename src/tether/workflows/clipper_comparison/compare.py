"""The clippers side by side on somebody's own data: equal weights, equal batches, the first steps of the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tether.core.atomic_io import read_json, remove_leftovers, write_json
from tether.core.component import build, closest
from tether.core.device import chosen_device
from tether.core.errors import InputError, StoppedError
from tether.core.gather import process_gather
from tether.core.locks import locked
from tether.core.protocols import ModelEdit
from tether.data.loader import Loader
from tether.training.checkpoints import list_checkpoints
from tether.training.config import RunConfig, Spec
from tether.training.metrics_log import read_metrics
from tether.training.parts import new_encoder
from tether.training.rollback import DivergedError
from tether.training.run import train
from tether.training.run_files import CHECKPOINTS, COMPARE, COMPARE_JSON, CONFIG, METRICS
from tether.training.stages import stretches
from tether.workflows.clipper_comparison.costs import Cost, calm_gradients_, costs
from tether.workflows.clipper_comparison.report import LEAST, Comparison, advise, look
from tether.workflows.clipper_comparison.trace import RunTrace

ENDED = "ended.json"
STEPS = 100
"""Of each clipper, unless told otherwise."""


def compare(
    config: RunConfig,
    *,
    folder: Path,
    steps: int = STEPS,
    resume: bool = False,
    on_start: Callable[[str, int, int], None] = lambda name, number, of: None,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    edits: Mapping[str, type[ModelEdit]] = MappingProxyType({}),
) -> tuple[Comparison, dict[str, RunTrace]]:
    """Do the first steps of a run once with each clipper.

    Writes ``compare.json`` and, for the logs, ``compare/<clipper>/``; the run itself can be started in the same folder
    afterwards. The recipe's own clipper keeps its settings; the others have their defaults. The schedule is that of the
    whole run. The data are read once, and decoded once if they fit in memory. Nothing is evaluated and no model is
    kept.

    Args:
        config: the run.
        folder: the run's folder.
        steps: of each clipper; at most those of the run, at least 20.
        resume: an interrupted comparison.
        on_start: told the clipper's name, its number from 0 on, and how many there are.
        on_record: gets each log record.
        should_stop: asked after every step; when true the step is saved and ``StoppedError`` raised.
        edits: what ``config.edits`` may name.

    Returns:
        What was seen, and the logs by clipper.

    Raises:
        InputError: several processes, or a folder with another comparison.
        LockedError: another process is writing there.
        StoppedError: asked to stop.
    """
    from tether.optim.clip import CLIPPERS

    steps = min(steps, config.steps)
    if steps < 2 * LEAST:
        raise InputError(f"--compare-steps: expected at least {2 * LEAST}, in a run of at least as many; got {steps}")
    first = stretches(config, where="settings")[0]
    if steps > first.end:
        raise InputError(f"--compare-steps: expected at most the {first.end} of the run's first stage, got {steps}")
    if process_gather().world > 1:
        raise InputError("--clipper compare: runs in one process; start it without torchrun or accelerate launch")
    specs = candidates(config.clipper, CLIPPERS)
    for name, spec in specs.items():
        build(spec, CLIPPERS, where=f"clipper ({name})")
    quiet = config.model_copy(update={"evaluate": None, "trackers": [], "log_every": 1, "save_every": 10**9, "keep": 1})
    loaders = _OneLoader()
    failures: dict[str, str] = {}
    with locked(folder, purpose="tether train --clipper compare"):
        _claim(folder, quiet, steps=steps, resume=resume)
        for number, (name, spec) in enumerate(specs.items()):
            on_start(name, number, len(specs))
            failures[name] = _first_steps(
                quiet.model_copy(update={"clipper": spec}),
                folder / COMPARE / name,
                steps=steps,
                on_record=on_record,
                should_stop=should_stop,
                edits=edits,
                make_loader=loaders,
            )
    traces = {name: RunTrace.of_log(_steps(folder / COMPARE / name / METRICS)) for name in specs}
    own, measured = _own(config.clipper), _costs(config, specs)
    seen = tuple(
        look(name, specs[name], trace, cost=measured[name].ratio, beside=traces[own], diverged=failures[name])
        for name, trace in traces.items()
    )
    found = Comparison(steps, own, _peak(config, done=len(traces[own].losses)), seen, ())
    found = replace(found, advice=tuple(advise(found)))
    write_json(folder / COMPARE_JSON, asdict(found))
    return found, traces


def candidates(own: Spec, known: Mapping[str, type]) -> dict[str, Spec]:
    """Every clipper by name; the recipe's own one as the recipe has it."""
    name = _own(own)
    if name not in known:
        raise InputError(f"clipper: unknown part {name!r}; {closest(name, known)}")
    return {other: own if other == name else other for other in known}


def _steps(path: Path) -> list[dict[str, Any]]:
    """The records of steps alone, without what else a log says."""
    return [record for record in read_metrics(path) if "loss" in record]


def _own(spec: Spec) -> str:
    return spec if isinstance(spec, str) else str(spec.get("name"))


def _claim(folder: Path, config: RunConfig, *, steps: int, resume: bool) -> None:
    """Make the comparison this one's, or refuse; one in which no clipper did anything is begun again."""
    remove_leftovers(folder)
    path = folder / COMPARE / "plan.json"
    plan = {"steps": steps, "config": config.model_dump(mode="json")}
    runs = [one for one in (folder / COMPARE).glob("*") if (one / ENDED).exists() or _saved(one)]
    if not path.exists() or not runs:
        write_json(path, plan)
        for one in (folder / COMPARE).glob(f"*/{CONFIG}"):
            shutil.rmtree(one.parent)
        return
    if not resume:
        raise InputError(f"{folder}: holds a comparison already; go on with --resume or choose another folder")
    held = read_json(path)
    if held != plan:
        theirs = held.get("config") if isinstance(held, dict) else None
        if not isinstance(theirs, dict):
            raise InputError(f"{path}: expected the steps and the settings of a comparison")
        keys = [key for key, value in plan["config"].items() if theirs.get(key) != value]
        keys += ["--compare-steps"] if held.get("steps") != steps else []
        raise InputError(f"{path}: is a comparison with other settings: {', '.join(keys)}; choose another folder")


def _first_steps(
    config: RunConfig,
    folder: Path,
    *,
    steps: int,
    on_record: Callable[[dict[str, Any]], None] | None,
    should_stop: Callable[[], bool],
    edits: Mapping[str, type[ModelEdit]],
    make_loader: Callable[..., Loader],
) -> str:
    """The first steps with one clipper, or what is left of them; gives the reason if it diverged."""
    ended = folder / ENDED
    if ended.exists():
        held = read_json(ended)
        if not isinstance(held, dict) or not isinstance(held.get("diverged"), str):
            raise InputError(f"{ended}: expected why the clipper stopped, or an empty text, got {held!r:.100}")
        return held["diverged"]
    done, diverged = _saved(folder), ""
    if done < steps:
        at = count(done + 1)
        try:
            train(
                config,
                folder=folder,
                resume=True,
                on_record=on_record,
                should_stop=lambda: next(at) >= steps or should_stop(),
                edits=edits,
                make_loader=make_loader,
            )
        except DivergedError as error:
            diverged = str(error)
        except StoppedError:
            if _saved(folder) < steps:
                again = f"the same command with --resume (folder {folder.parents[1]})"
                raise StoppedError(f"stopped while comparing clippers; go on with {again}") from None
    write_json(ended, {"diverged": diverged})
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return diverged


def _saved(folder: Path) -> int:
    """Steps that the newest checkpoint has done."""
    saved = list_checkpoints(folder / CHECKPOINTS)
    return int(saved[-1].name.rpartition("-")[2]) if saved else 0


class _OneLoader:
    """Makes the loader at the first call; later ones get the same, back at its start: nothing is read again."""

    def __init__(self) -> None:
        self._made: Loader | None = None
        self._start: dict[str, Any] = {}

    def __call__(self, source: Any, **settings: Any) -> Loader:
        if self._made is None:
            self._made = Loader(source, **settings)
            self._start = self._made.state_dict()
        else:
            self._made.load_state_dict(self._start)
        return self._made


def _peak(config: RunConfig, *, done: int) -> float:
    """The highest learning rate of the steps done as a fraction of the highest of the whole schedule."""
    from tether.training.schedules import SCHEDULES

    schedule = build(config.schedule, SCHEDULES, where="schedule")
    factors = [schedule.factor(step, steps=config.steps) for step in range(config.steps)]
    return max(factors[:done], default=0.0) / max(factors) if max(factors) > 0 else 1.0


def _costs(config: RunConfig, specs: Mapping[str, Spec]) -> dict[str, Cost]:
    """Time of each clipper on this model with calm gradients, as a multiple of torch's."""
    from tether.optim.clip import CLIPPERS

    encoder = new_encoder(config).to(chosen_device("auto"))
    named = [(name, parameter) for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    calm_gradients_([parameter for _, parameter in named], norm=1e-3)
    clippers = {name: build(spec, CLIPPERS, where="clipper") for name, spec in specs.items()}
    return costs(clippers, named, rounds=5, calls=2)
