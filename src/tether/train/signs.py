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
_NAMES = ("loss", "grad_norm", "lr", "logit_scale")
_WORKING = 0.3
"""Steps whose rate is below this share of the highest are expected to change little: warm-up, the end of a schedule."""
_FLAT, _AT_CHANCE, _RISEN = 0.01, 0.02, 1.2
_MOST_SCALE, _LARGEST = 100.0, 1e300
_AT_BOUND = 0.999
_SKIPPED, _GROWN = 0.02, 5.0
ADVICE = {
    "chance": (
        "the loss stays at {level:.3g}, which is chance, log(batch): the two sides do not find each other",
        "look whether captions belong to their images, try a third of the learning rate and a longer warm-up",
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
        "the gradient norm grows: {level:.3g} over the last quarter, {least:.3g} over the second",
        "lower the learning rate, use a clipper such as zclip or more weight decay",
    ),
}
"""By sign: what is seen, with figures, and what to try."""


class RunCourse:
    """The numbers of a run's steps, in little memory, and the signs that were named already.

    Example:
        >>> from tether.train.signs import RunCourse
        >>> course = RunCourse()
        >>> for step in range(100):
        ...     course.add({"step": step, "loss": 4.16, "grad_norm": 1.0, "lr": 0.1, "logit_scale": 14.0})
        >>> list(course.signs(chance=4.159))
        ['chance']
    """

    def __init__(self) -> None:
        """No step yet."""
        self._columns = {name: array("d") for name in _NAMES}
        self._skipped = 0
        self._named: set[str] = set()

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in one record of the log."""
        if isinstance(record.get("signs"), Mapping):
            self._named |= set(record["signs"])
        if "loss" not in record:
            return
        for name, column in self._columns.items():
            value = record.get(name)
            column.append(float(value) if isinstance(value, (int, float)) and abs(value) < _LARGEST else math.nan)
        self._skipped += bool(record.get("skipped"))

    def new_signs(self, *, chance: float | None) -> dict[str, str]:
        """Those that were not named before, each with what is seen and what to try."""
        return {name: said for name, said in self.signs(chance=chance).items() if name not in self._named}

    def signs(self, *, chance: float | None) -> dict[str, str]:
        """All signs, by name, each in one line.

        Args:
            chance: loss of a model that has learnt nothing, or None where it is not known.
        """
        found: dict[str, dict[str, float]] = {}
        losses, steps = self._columns["loss"], len(self._columns["loss"])
        if steps < FEWEST:
            return {}
        if (flat := self._flat()) is not None:
            at_chance = chance is not None and abs(flat - chance) < _AT_CHANCE * chance
            found["chance" if at_chance else "plateau"] = {"level": flat}
        tenths = [_middle(part) for part in _parts(losses, 10)]
        least = min((one for one in tenths if not math.isnan(one)), default=math.nan)
        if tenths[-1] > _RISEN * least and tenths[-2] > math.sqrt(_RISEN) * least:
            found["divergence"] = {"level": tenths[-1], "least": least}
        scale = _middle(_parts(self._columns["logit_scale"], 4)[-1])
        if scale >= _AT_BOUND * _MOST_SCALE and _middle(self._columns["logit_scale"][:5]) < _AT_BOUND * _MOST_SCALE:
            found["scale"] = {"level": scale}
        if self._skipped > max(2, _SKIPPED * steps):
            found["skipped"] = {"count": self._skipped, "steps": steps}
        norms = [_middle(part) for part in _parts(self._columns["grad_norm"], 4)]
        if norms[3] > _GROWN * norms[1] and norms[2] > norms[1]:
            found["growing"] = {"level": norms[3], "least": norms[1]}
        return {name: "; ".join(ADVICE[name]).format(**figures) for name, figures in found.items()}

    def _flat(self) -> float | None:
        """The level of the loss over the last half of the steps at a working rate, if it is one level."""
        rates = self._columns["lr"]
        most = max((rate for rate in rates if not math.isnan(rate)), default=math.nan)
        pairs = zip(self._columns["loss"], rates, strict=True)
        working = [loss for loss, rate in pairs if math.isnan(most) or rate >= _WORKING * most]
        if len(working) < FEWEST:
            return None
        third, last = (_middle(part) for part in _parts(working, 4)[2:])
        return last if abs(third - last) < _FLAT * abs(third) else None


def signs_of(records: Iterable[Mapping[str, Any]], *, chance: float | None) -> dict[str, str]:
    """The signs of a whole log, see ``RunCourse.signs``."""
    course = RunCourse()
    for record in records:
        course.add(record)
    return course.signs(chance=chance)


def chance(config: Mapping[str, Any]) -> float | None:
    """The loss of a model that has learnt nothing, log(batch) nats; None unless the run's loss is CLIP's alone."""
    plain = all(
        _name(config.get(key, usual)) == usual for key, usual in (("objective", "clip"), ("step", "contrastive"))
    )
    batch = config.get("batch_size")
    return math.log(batch) if plain and isinstance(batch, int) and batch > 1 and not config.get("stages") else None


def _name(spec: object) -> object:
    return spec.get("name") if isinstance(spec, Mapping) else spec


def _parts(values: Sequence[float], count: int) -> list[Sequence[float]]:
    """So many parts in a row, of about equal length."""
    borders = [len(values) * number // count for number in range(count + 1)]
    return [values[start:end] for start, end in pairwise(borders)]


def _middle(values: Iterable[float]) -> float:
    """The median of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan
