"""One number before and after an adaptation, on the same rows, with intervals and chance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.evaluate.bootstrap import interval
from tether.evaluate.embeddings import Embedded
from tether.evaluate.groups import Share, wilson
from tether.evaluate.retrieval import chance, ranks
from tether.tasks.classify.calibrate import calibration_error

Better = Literal["higher", "lower", "none"]
DEPTHS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its 95 % interval; ends are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure before and after.

    Attributes:
        name: in words.
        before: with the base.
        after: with what came of it.
        change: after less before, row by row.
        n: rows, or images, that it is of.
        chance: what knowing nothing reaches, or None.
        better: whether a higher or a lower number is better, or neither.
        unit: ``share`` is shown in per cent, ``number`` as it is.
    """

    name: str
    before: Interval
    after: Interval
    change: Interval
    n: int
    chance: float | None = None
    better: Better = "higher"
    unit: Literal["share", "number"] = "share"

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown"]:
        """What the interval of the change says; without one nothing is shown."""
        low, high = self.change.low, self.change.high
        if low is None or high is None or self.better == "none" or low <= 0 <= high:
            return "no difference shown"
        return "better" if (low > 0) == (self.better == "higher") else "worse"

    def shown(self, one: Interval, *, signed: bool = False) -> str:
        """A number of it as people read it, with its interval."""
        scale, digits = (100, 1) if self.unit == "share" else (1, 3)
        sign = "+" if signed else ""
        text = f"{scale * one.value:{sign}.{digits}f}" + (" %" if self.unit == "share" and not signed else "")
        if one.low is None or one.high is None:
            return text
        return f"{text} ({scale * one.low:{sign}.{digits}f} to {scale * one.high:{sign}.{digits}f})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the verdict."""
        return asdict(self) | {"verdict": self.verdict}


def hits_figure(
    name: str, before: Bool[Tensor, " n"], after: Bool[Tensor, " n"], *, chance: float | None = None
) -> Compared:
    """Of rows that are right or wrong: shares with Wilson's interval, their difference with a bootstrap over rows."""
    if before.shape != after.shape or not len(before):
        raise InputError(f"{name}: expected (n,) rows before and after, got {len(before)} and {len(after)}")
    ends = []
    for hits in (before, after):
        share = wilson(int(hits.sum()), n=len(hits))
        ends.append(Interval(share.rate, share.low, share.high))
    change = (after.double() - before.double()).numpy()[:, None]
    low, high = interval(change, counts=np.ones_like(change))[0]
    found = Interval(float(change.mean()), float(low), float(high))
    return Compared(name, ends[0], ends[1], found, len(before), chance=chance)


def shares_figure(name: str, before: Share, after: Share, *, n: int, chance: float | None = None) -> Compared:
    """Of two shares that need not be of the same rows: their own intervals, and Newcombe's of the difference.

    It takes them as independent, which is wide where they are of the same rows.
    """
    by = after.rate - before.rate
    low = by - math.hypot(after.rate - after.low, before.high - before.rate)
    high = by + math.hypot(after.high - after.rate, before.rate - before.low)
    ends = [Interval(one.rate, one.low, one.high) for one in (before, after)]
    return Compared(name, ends[0], ends[1], Interval(by, low, high), n, chance=chance)


def class_figures(
    before: Float[Tensor, "n c"], after: Float[Tensor, "n c"], *, labels: Int[Tensor, " n"]
) -> list[Compared]:
    """Accuracy and calibration error of the probabilities of the classes."""
    hits = [one.argmax(dim=1) == labels for one in (before, after)]
    errors = [calibration_error(one, labels=labels) for one in (before, after)]
    found = hits_figure("accuracy", hits[0], hits[1], chance=1 / before.shape[1])
    first, last = map(Interval, errors)
    return [
        found,
        Compared("calibration error", first, last, Interval(errors[1] - errors[0]), len(labels), better="lower"),
    ]


def recall_figure(before: Embedded, after: Embedded) -> Compared:
    """Recall of images by their captions, at the depth of ``DEPTHS`` that fits the pool, with a bootstrap over images.

    Raises:
        InputError: no caption, or one image alone.
    """
    images, texts = len(before.image), len(before.text)
    if not texts or images < 2:
        raise InputError(f"recall: expected at least two images with captions, got {images} images, {texts} captions")
    depth = max((one for one in DEPTHS if 20 * one <= images), default=1)
    owner = before.text_to_image
    columns = []
    for seen in (before, after):
        geometry = seen.geometry
        found = ranks(
            geometry.points(seen.image), geometry.points(seen.text), text_to_image=owner, similarity=geometry.similarity
        )
        columns.append((found.text_to_image <= depth).double())
    columns.append(columns[1] - columns[0])
    sums = torch.zeros(images, 3, dtype=torch.float64).index_add_(0, owner, torch.stack(columns, dim=1))
    counts = torch.zeros(images, dtype=torch.float64).index_add_(0, owner, torch.ones(texts, dtype=torch.float64))
    ends = interval(sums.numpy(), counts=counts[:, None].expand(-1, 3).numpy())
    found = [
        Interval(float(column.mean()), float(low), float(high))
        for column, (low, high) in zip(columns, ends, strict=True)
    ]
    expected = chance(owner, images=images, k=(depth,))[f"text_to_image_r{depth}_chance"]
    return Compared(f"text to image, recall at {depth}", found[0], found[1], found[2], images, chance=expected)


def plain_figure(name: str, before: float, after: float, *, n: int, better: Better, unit: str = "number") -> Compared:
    """A number without an interval; NaN and infinity are refused."""
    if not (math.isfinite(before) and math.isfinite(after)):
        raise InputError(f"{name}: expected finite numbers, got {before} and {after}")
    kind: Literal["share", "number"] = "share" if unit == "share" else "number"
    return Compared(name, Interval(before), Interval(after), Interval(after - before), n, better=better, unit=kind)
