"""What the course of a run is a sign of, and what to try: read off its log, while it runs and afterwards."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

FEWEST = 50
"""Steps before which nothing is said."""
_PATIENCE = 1000
"""A quarter of the run, but at most so many steps, may pass at one level: contrastive losses often begin at chance."""
_NAMES = ("loss", "grad_norm", "lr", "logit_scale")
_WORKING = 0.3
"""Steps whose rate is below this share of the highest are expected to change little: warm-up, the end of a schedule."""
_FLAT, _AT_CHANCE, _RISEN = 0.01, 0.02, 1.2
_MOST_SCALE, _LARGEST = 100.0, 1e300
_AT_BOUND, _FALLEN = 0.999, 0.05
_SKIPPED, _GROWN = 0.02, 5.0
ADVICE = {
    "chance": (
        "the loss stays at {level:.3g}, which is chance, log(batch): the two sides do not find each other",
        "look whether captions belong to their images, try a third of the learning rate and a longer warm-up",
    ),
    "collapse": (
        "the loss stays at {level:.3g}, which is chance, log(batch), and gradients fell to {norm:.2g} from {most:.2g}: "
        "all embeddings are alike",
        "look whether captions belong to their images; else begin again, or go on from a checkpoint before it, with a "
        "third of the learning rate or rollback={{}}",
    ),
    "rest": (
        "the learning rate has been 0 for {count:,} steps, and nothing is learnt",
        "look at the optimizer's lr and at the schedule",
    ),
    "plateau": (
        "the loss has stayed at {level:.3g} over the last half of the steps at a working rate",
        "try a larger or a falling learning rate, more or other data, or end the run here",
    ),
    "divergence": (
        "the loss rises: {level:.3g} over the last tenth, {least:.3g} at its lowest",
        "lower the learning rate to a third, or set rollback={{}} and a clipper such as zclip",
    ),
    "scale": (
        "the scale of the logits stands at its bound, {level:.0f}",
        "likely too many passes over few pairs: take more data or fewer epochs, or set logit_scale=fixed",
    ),
    "skipped": (
        "{count:,} of {steps:,} steps were skipped, since gradients were not finite",
        "use bf16 or fp32 in place of fp16, lower the learning rate, and look at the batches before them",
    ),
    "growing": (
        "the gradient norm grows: {level:.3g} over the last quarter, {least:.3g} over the first half",
        "lower the learning rate, use a clipper such as zclip or more weight decay",
    ),
}
"""By sign: what is seen, with figures, and what to try."""


class RunCourse:
    """The numbers of a run's steps, in little memory, and the signs that were named already.

    Example:
        >>> from tether.training.signs import RunCourse
        >>> course = RunCourse({"batch_size": 64})
        >>> for step in range(100):
        ...     course.add({"step": step, "loss": 4.16, "grad_norm": 1.0, "lr": 0.1, "logit_scale": 14.0})
        >>> list(course.signs())
        ['chance']
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """No step yet.

        Args:
            config: of the run, as in its config.yaml.
        """
        self._chance, self._bound, self._borders = chance(config), _bound(config), _borders(config)
        planned = config.get("steps")
        self._patience = max(FEWEST, min(_PATIENCE, planned // 4 if isinstance(planned, int) else 0))
        self._named: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        self._columns = {name: array("d") for name in _NAMES}
        self._skipped = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in one record of the log."""
        if isinstance(record.get("signs"), Mapping):
            self._named |= set(record["signs"])
        if "loss" not in record:
            return
        if record["step"] in self._borders:
            self._forget()
        for name, column in self._columns.items():
            value = record.get(name)
            column.append(float(value) if isinstance(value, (int, float)) and abs(value) < _LARGEST else math.nan)
        self._skipped += bool(record.get("skipped"))

    def new_signs(self) -> dict[str, str]:
        """Those that were not named before, each with what is seen and what to try."""
        named = self._named | ({"chance"} if "collapse" in self._named else set())
        return {name: said for name, said in self.signs().items() if name not in named}

    def signs(self) -> dict[str, str]:
        """All signs of the stage that the run is in, by name, each in one line."""
        losses, steps = self._columns["loss"], len(self._columns["loss"])
        if steps < FEWEST:
            return {}
        found = self._level()
        tenths = [_middle(part) for part in _parts(losses, 10)]
        least = min((one for one in tenths if not math.isnan(one)), default=math.nan)
        if tenths[-1] > _RISEN * least and tenths[-2] > math.sqrt(_RISEN) * least:
            found["divergence"] = {"level": tenths[-1], "least": least}
        scale = _middle(_parts(self._columns["logit_scale"], 4)[-1])
        if scale >= _AT_BOUND * self._bound > _middle(self._columns["logit_scale"][:5]):
            found["scale"] = {"level": scale}
        if self._skipped > max(2, _SKIPPED * steps):
            found["skipped"] = {"count": self._skipped, "steps": steps}
        *before, third, last = (_middle(part) for part in _parts(self._columns["grad_norm"], 4))
        *_, lately, now = (_middle(part) for part in _parts(losses, 4))
        spared = now < (1 - _FLAT) * lately or {"collapse", "chance"} & set(found)
        if last > _GROWN * max(before) and third > before[1] and not spared:
            found["growing"] = {"level": last, "least": max(before)}
        return {name: "; ".join(ADVICE[name]).format(**figures) for name, figures in found.items()}

    def _level(self) -> dict[str, dict[str, float]]:
        """What it is a sign of that the loss keeps one level over the last half of the steps at a working rate."""
        rates, norms = self._columns["lr"], self._columns["grad_norm"]
        most = max((rate for rate in rates if not math.isnan(rate)), default=math.nan)
        if most == 0:
            return {"rest": {"count": len(rates)}}
        pairs = zip(self._columns["loss"], rates, strict=True)
        working = [loss for loss, rate in pairs if math.isnan(most) or rate >= _WORKING * most]
        if len(working) < self._patience:
            return {}
        third, last = (_middle(part) for part in _parts(working, 4)[2:])
        if not abs(third - last) + 2 * _error(working[len(working) // 2 :]) < _FLAT * abs(third):
            return {}
        if self._chance is None or abs(last - self._chance) >= _AT_CHANCE * self._chance:
            return {"plateau": {"level": last}}
        first, *_, norm = (_middle(part) for part in (norms[:5], *_parts(norms, 10)))
        if norm < _FALLEN * first:
            return {"collapse": {"level": last, "norm": norm, "most": first}}
        return {"chance": {"level": last}}


def signs_of(records: Iterable[Mapping[str, Any]], *, config: Mapping[str, Any]) -> dict[str, str]:
    """The signs of a whole log, see ``RunCourse.signs``."""
    course = RunCourse(config)
    for record in records:
        course.add(record)
    return course.signs()


def chance(config: Mapping[str, Any]) -> float | None:
    """The loss of a model that has learnt nothing, log(batch) nats; None unless the run's loss is CLIP's alone."""
    plain = all(
        _name(config.get(key, usual)) == usual for key, usual in (("objective", "clip"), ("step", "contrastive"))
    )
    batch = config.get("batch_size")
    return math.log(batch) if plain and isinstance(batch, int) and batch > 1 and not config.get("stages") else None


def _bound(config: Mapping[str, Any]) -> float:
    """The greatest scale that the logits may have."""
    model = config.get("model")
    bounds = model.get("logit_scale_range") if isinstance(model, Mapping) else None
    return float(bounds[1]) if isinstance(bounds, Sequence) and len(bounds) == 2 else _MOST_SCALE


def _borders(config: Mapping[str, Any]) -> set[int]:
    """First steps of the later stages, whose losses are not to be compared with those before."""
    stages, planned = config.get("stages") or [], config.get("steps") or 0
    lengths = [stage.get("steps") or planned * (stage.get("share") or 0) for stage in stages]
    return {round(sum(lengths[:number])) for number in range(1, len(lengths))}


def _name(spec: object) -> object:
    return spec.get("name") if isinstance(spec, Mapping) else spec


def _parts(values: Sequence[float], count: int) -> list[Sequence[float]]:
    """So many parts in a row, of about equal length."""
    borders = [len(values) * number // count for number in range(count + 1)]
    return [values[start:end] for start, end in pairwise(borders)]


def _error(values: Sequence[float]) -> float:
    """Standard error of the difference between the medians of two halves; slow changes do not count as noise."""
    deviation = 1.48 / math.sqrt(2) * _middle(abs(later - value) for value, later in pairwise(values))
    return 1.25 * deviation * math.sqrt(4 / len(values))


def _middle(values: Iterable[float]) -> float:
    """The median of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan
