"""The clippers side by side on somebody's own data: equal weights, equal batches, the first steps of the run."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tether.core.atomic_io import read_json, remove_leftovers, write_json
from tether.core.component import build, closest
from tether.core.errors import InputError, StoppedError
from tether.core.gather import process_gather
from tether.core.locks import locked
from tether.core.protocols import ModelEdit
from tether.data.loader import Loader
from tether.train.checkpoints import list_checkpoints
from tether.train.config import RunConfig, Spec
from tether.train.costs import relative, timed
from tether.train.metrics_log import read_metrics
from tether.train.parts import new_encoder
from tether.train.run import DivergedError, train
from tether.train.run_files import CHECKPOINTS, COMPARE, COMPARE_JSON, CONFIG, METRICS
from tether.train.stages import stretches

ENDED = "ended.json"
STEPS = 100
"""Of each clipper, unless told otherwise."""
LAST = 0.2
"""Share of the steps, from the end, whose losses are compared; at least ``LEAST`` of them."""
LEAST = 10
MATTERS = 0.02
"""A difference of the loss that is worth a change, as a share of it; it must also be twice its standard error."""
BEFORE = 20
"""Steps before, whose median loss is the level that a spike rises from."""
RISE, DEVIATIONS = 0.05, 5.0
"""A spike lies above that level by this share of it and by this many deviations (1.48 times the median one)."""
OFTEN = 0.5
"""A limit that acts in more than this share of the steps is a smaller learning rate rather than a guard."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one clipper did.

    Attributes:
        name: in ``CLIPPERS``.
        spec: the part with its settings, as a recipe has it.
        steps: steps done; fewer than asked for only if it diverged.
        loss: mean over the last steps; of those that are finite; None when over half are not.
        less: loss less that of the recipe's clipper on the same batches, over the last steps; None without one of them.
        error: standard error of that, from the single steps.
        spikes: how often the loss jumped, see ``spikes``.
        skipped: steps whose gradients were not finite.
        clipped: share of the steps in which gradients were scaled down.
        largest: largest gradient norm before clipping.
        usual: median gradient norm before clipping.
        threshold: the limit at the last step, in units of the norm; None when there is none.
        cost: time of one calm call, ``torch.nn.utils.clip_grad_norm_`` = 1.
        diverged: why it stopped early, or the empty string.
    """

    name: str
    spec: Spec
    steps: int
    loss: float | None
    less: float | None
    error: float | None
    spikes: int
    skipped: int
    clipped: float
    largest: float | None
    usual: float | None
    threshold: float | None
    cost: float
    diverged: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All clippers on one run.

    Attributes:
        steps: of each.
        own: name of the recipe's clipper.
        peak: highest learning rate so far as a share of the whole run's: below 1 the warm-up is not over.
        seen: the clippers, in the order they ran.
        advice: plain sentences, the answer first; they follow from ``seen`` by ``advise``.
    """

    steps: int
    own: str
    peak: float
    seen: tuple[Seen, ...]
    advice: tuple[str, ...]


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
) -> Comparison:
    """Do the first steps of a run once with each clipper.

    The recipe's own clipper keeps its settings; the others have their defaults. The schedule is that of the whole run.
    The data are read once, and decoded once if they fit in memory. Nothing is evaluated and no model is kept.

    Args:
        config: the run.
        folder: the run's folder; gets ``compare.json`` and, for the logs, ``compare/<clipper>/``. The run itself can
            be started there afterwards.
        steps: of each clipper; at most those of the run, at least 20.
        resume: go on with a comparison that was interrupted.
        on_start: told the clipper's name, its number from 0 on, and how many there are.
        on_record: gets each log record.
        should_stop: asked after every step; when true the step is saved and ``StoppedError`` raised.
        edits: what ``config.edits`` may name.

    Raises:
        InputError: too few steps, several processes, or a folder with another comparison.
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
    costs = _costs(config, specs)
    logs = {name: read_metrics(folder / COMPARE / name / METRICS) for name in specs}
    own = _own(config.clipper)
    first = [look(name, specs[name], logs[name], cost=costs[name], diverged=failures[name]) for name in specs]
    seen = tuple(_beside(one, logs[one.name], logs[own]) for one in first)
    rates = [record["lr"] for record in logs[own]]
    found = Comparison(steps, own, _peak(config, max(rates, default=0.0)), seen, ())
    found = replace(found, advice=tuple(advise(found)))
    write_json(folder / COMPARE_JSON, asdict(found))
    return found


def candidates(own: Spec, known: Mapping[str, type]) -> dict[str, Spec]:
    """Every clipper by name; the recipe's own one as the recipe has it.

    Raises:
        InputError: the recipe's clipper is unknown.
    """
    name = _own(own)
    if name not in known:
        raise InputError(f"clipper: unknown part {name!r}; {closest(name, known)}")
    return {other: own if other == name else other for other in known}


def look(name: str, spec: Spec, log: Sequence[Mapping[str, Any]], *, cost: float, diverged: str = "") -> Seen:
    """What a log tells about one clipper, by itself.

    Args:
        name: of the clipper.
        spec: with its settings.
        log: records of ``metrics.jsonl``, one for each step.
        cost: see ``Seen``.
        diverged: why it stopped early, or the empty string.
    """
    losses = [record["loss"] for record in log]
    norms = [record["grad_norm"] for record in log if record["grad_norm"] is not None]
    last = losses[-_last(len(losses)) :]
    known = [value for value in last if value is not None]
    return Seen(
        name=name,
        spec=spec,
        steps=len(log),
        loss=statistics.fmean(known) if _enough(known, of=len(last)) and not diverged else None,
        less=None,
        error=None,
        spikes=spikes(losses),
        skipped=sum(bool(record["skipped"]) for record in log),
        clipped=sum((record["grad_scale"] or 1.0) < 1 for record in log) / max(1, len(log)),
        largest=max(norms, default=None),
        usual=statistics.median(norms) if norms else None,
        threshold=log[-1]["grad_threshold"] if log else None,
        cost=cost,
        diverged=diverged,
    )


def spikes(losses: Sequence[float | None]) -> int:
    """How often the loss jumped; steps in a row count once, and so does a loss that is not finite.

    A step is high when it lies above the median of the ``BEFORE`` steps before by ``RISE`` of it and by ``DEVIATIONS``
    times their median deviation.
    """
    found, inside = 0, False
    for step, loss in enumerate(losses):
        before = [value for value in losses[max(0, step - BEFORE) : step] if value is not None]
        high = loss is None
        if loss is not None and len(before) >= BEFORE // 2:
            level = statistics.median(before)
            spread = 1.4826 * statistics.median(abs(value - level) for value in before)
            high = loss > level + max(RISE * abs(level), DEVIATIONS * spread)
        found += high and not inside
        inside = high
    return found


def advise(found: Comparison) -> list[str]:
    """What follows from the numbers, the answer first.

    A clipper is better than the recipe's when its loss over the last steps is lower by ``MATTERS`` of it and by twice
    the standard error, or when the recipe's diverged and it did not. Of several within ``MATTERS`` of the best the
    cheapest is named. If none is better, but one has fewer spikes and skipped steps at no worse a loss, that is said.
    Otherwise: no difference, keep what you have.
    """
    own = next(one for one in found.seen if one.name == found.own)
    better = [one for one in found.seen if one is not own and _better(one, own)]
    said = [_answer(found, own, better)]
    if own.clipped > OFTEN and own.usual is not None:
        said.append(
            f"{own.name} clipped {own.clipped:.0%} of the steps: with a usual norm of {own.usual:.3g} it works as a "
            "smaller learning rate more than as a guard."
        )
    if failed := [one.name for one in found.seen if one.diverged]:
        said.append(f"Gradients were not finite for too long with {', '.join(failed)}.")
    if found.peak < 0.999:
        said.append(
            f"The learning rate had reached {found.peak:.0%} of its peak: more --compare-steps may change the picture."
        )
    return said


def _answer(found: Comparison, own: Seen, better: Sequence[Seen]) -> str:
    if better:
        losses = {one.name: one.loss for one in better if one.loss is not None}
        lowest = min(losses.values())
        near = [one for one in better if losses[one.name] <= lowest + MATTERS * abs(lowest)]
        best = min(near, key=lambda one: one.cost)
        others = [one.name for one in near if one is not best]
        also = f" ({', '.join(others)}: as good)" if others else ""
        if own.loss is None:
            return f"Try clipper={best.name}{also}: {own.name} diverged and it did not."
        share = (own.loss - losses[best.name]) / abs(own.loss)
        return (
            f"Try clipper={best.name}{also}: over the last {_last(found.steps)} of {found.steps} steps the loss was "
            f"{share:.1%} lower than with {own.name}, on the same batches."
        )
    if own.loss is None:
        return f"Every clipper failed as {own.name} did: look at the data and the learning rate first."
    trouble = own.spikes + own.skipped
    calmer = [
        one
        for one in found.seen
        if one.spikes + one.skipped < trouble and one.less is not None and one.less <= MATTERS * abs(own.loss)
    ]
    if calmer:
        best = min(calmer, key=lambda one: (one.spikes + one.skipped, one.cost))
        return (
            f"The losses do not differ by {MATTERS:.0%}, but {best.name} had {best.spikes} spikes and {best.skipped} "
            f"skipped steps where {own.name} had {own.spikes} and {own.skipped}: try clipper={best.name}."
        )
    return f"No difference that matters: keep what you have, clipper={own.name}."


def _better(one: Seen, own: Seen) -> bool:
    if one.loss is None:
        return False
    if own.loss is None:
        return True
    if one.less is None or one.error is None:
        return False
    return one.less < -MATTERS * abs(own.loss) and one.less < -2 * one.error


def _beside(one: Seen, log: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> Seen:
    """The same with its difference from the recipe's clipper; the batches are the same, so steps are paired."""
    last = _last(len(own))
    pairs = list(zip([row["loss"] for row in log], [row["loss"] for row in own], strict=False))[-last:]
    differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    if len(log) != len(own) or not _enough(differences, of=last):
        return one
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return replace(one, less=statistics.fmean(differences), error=error)


def _enough(known: Sequence[float], *, of: int) -> bool:
    """One bad batch among the last steps is no divergence; when more than half of them are bad nothing can be said."""
    return len(known) >= 2 and 2 * len(known) >= of


def _last(steps: int) -> int:
    return max(LEAST, round(LAST * steps))


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


def _peak(config: RunConfig, rate: float) -> float:
    """A learning rate as a share of the highest that the run's schedule will give the first group."""
    from tether.optim import OPTIMIZERS
    from tether.train.schedules import SCHEDULES

    schedule = build(config.schedule, SCHEDULES, where="schedule")
    probe = build(config.optimizer, OPTIMIZERS, where="optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    highest = max(schedule.factor(step, steps=config.steps) for step in range(config.steps))
    return rate / (highest * probe.param_groups[0]["lr"]) if highest > 0 and probe.param_groups[0]["lr"] else 1.0


def _costs(config: RunConfig, specs: Mapping[str, Spec]) -> dict[str, float]:
    """Time of each clipper on this model with calm gradients, as a multiple of torch's."""
    from tether.optim.clip import CLIPPERS

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = device or torch.device("cpu")
    encoder = new_encoder(config).to(device)
    named = [(name, parameter) for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    draw = torch.Generator().manual_seed(0)
    spread = 1e-3 / math.sqrt(sum(parameter.numel() for _, parameter in named))
    for _, parameter in named:
        parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter) * spread
    parameters = [parameter for _, parameter in named]

    def calls(spec: Spec) -> Callable[[], object]:
        clipper, step = build(spec, CLIPPERS, where="clipper"), count()
        return lambda: clipper.clip_(named, step=next(step))

    work: dict[str, Callable[[], object]] = {name: calls(spec) for name, spec in specs.items()}
    work[" torch"] = lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    seconds = timed(work, rounds=5, calls=2, device=device)
    return {name: relative(seconds[name], seconds[" torch"]).ratio for name in specs}
