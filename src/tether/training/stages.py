"""The stretches of a run, each with settings of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tether.core.errors import InputError
from tether.training.config import RunConfig, Spec, Stage
from tether.training.schedules import scaled_lr

_SUM = 1e-6
_SIZES = ("image_size", "context")
_OWN = {"share", "steps", "learning_rate", "base_lr", "how", *_SIZES}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps in a row that are taken alike.

    Attributes:
        config: of the run, with what is other here.
        first: first step.
        end: step after the last.
        learning_rate: factor on the schedule.
        base_lr: rate of 256 pairs, instead of the optimiser's, or None.
        own_schedule: whether the schedule is over these steps alone.
        how: positions change with the sizes, see ``models.towers.sizes.Resizes``.
    """

    config: RunConfig
    first: int
    end: int
    learning_rate: float = 1.0
    base_lr: float | None = None
    own_schedule: bool = False
    how: Spec | Sequence[Spec] | None = None

    def keeps(self, before: Stretch, *names: str) -> bool:
        """Whether these settings are as they were in the stretch before."""
        return all(getattr(self.config, name) == getattr(before.config, name) for name in names)


def stretches(config: RunConfig, *, where: str) -> Sequence[Stretch]:
    """The stretches of a run in order; one without stages is a single one.

    Raises:
        InputError: shares that do not add up to 1, steps that do not add up to the run's, or a stage without a step.
    """
    stages = config.stages
    if not stages:
        return [Stretch(config, 0, config.steps)]
    shares = [stage.share for stage in stages if stage.share is not None]
    steps = [stage.steps for stage in stages if stage.steps is not None]
    if (len(shares), len(steps)) not in ((len(stages), 0), (0, len(stages))):
        raise InputError(f"{where}: stages: expected a share in every one, or steps in every one")
    if shares and abs(sum(shares) - 1) > _SUM:
        raise InputError(f"{where}: stages: expected shares that add up to 1, got {' + '.join(map(str, shares))}")
    if steps and sum(steps) != config.steps:
        raise InputError(f"{where}: stages: expected {config.steps} steps together, got {' + '.join(map(str, steps))}")
    lengths = steps or [share * config.steps for share in shares]
    borders = [round(sum(lengths[:number])) for number in range(len(stages) + 1)]
    found = []
    for number, stage in enumerate(stages):
        first, end = borders[number : number + 2]
        here = f"{where}: stages, entry {number}"
        if first == end:
            raise InputError(f"{here}: not one of {config.steps} steps falls into it")
        changed = _changed(config, stage, where=here)
        if stage.base_lr is not None:
            if stage.learning_rate != 1:
                raise InputError(f"{here}: give learning_rate, a factor, or base_lr, not both")
            try:
                scaled_lr(stage.base_lr, batch=changed.batch_size)
            except InputError as error:
                raise InputError(f"{here}: base_lr: {error}") from error
        own = stage.schedule is not None
        found.append(Stretch(changed, first, end, stage.learning_rate, stage.base_lr, own, stage.how))
    return found


def _changed(config: RunConfig, stage: Stage, *, where: str) -> RunConfig:
    given = {name: getattr(stage, name) for name in Stage.model_fields}
    changes = {name: value for name, value in given.items() if value is not None and name not in _OWN}
    sizes = {name: given[name] for name in _SIZES if given[name] is not None}
    if not sizes and stage.how is not None:
        raise InputError(f"{where}: how: neither image_size nor context is other here")
    if sizes and {"load", "image"} & set(config.model):
        sizes = {"resized": {**(config.model.get("resized") or {}), **sizes}}
    if sizes:
        changes["model"] = {**config.model, **sizes}
    return config.model_copy(update={**changes, "stages": []})
