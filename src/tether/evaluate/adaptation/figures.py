"""One number before and after an adaptation, on the same rows, with intervals and chance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.evaluate.bootstrap import interval
from tether.evaluate.embeddings import Embedded
from tether.evaluate.groups import Share, wilson_ends
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
        about: what it measures, in a sentence; may be empty.
        chance_is: who reaches chance, where that is not guessing.
    """

    name: str
    before: Interval
    after: Interval
    change: Interval
    n: int
    chance: float | None = None
    better: Better = "higher"
    unit: Literal["share", "number"] = "share"
    about: str = ""
    chance_is: str = ""

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown"]:
        """What the interval of the change says; without one nothing is shown."""
        low, high = self.change.low, self.change.high
        if low is None or high is None or self.better == "none" or low <= 0 <= high:
            return "no difference shown"
        return "better" if (low > 0) == (self.better == "higher") else "worse"

    def above_chance(self, one: Interval) -> bool:
        """Whether its whole interval lies above chance; also where chance is not known or lower is better."""
        if self.chance is None or self.better != "higher":
            return True
        return (one.value if one.low is None else one.low) > self.chance

    def sentence(self) -> str:
        """Name, both numbers, the change and chance, without a full stop."""
        change = self.shown(self.change, signed=True) + (" points" if self.unit == "share" else "")
        chance = "" if self.chance is None else f"; chance {self.shown_chance()}"
        return f"{self.name} {self.shown(self.before)} -> {self.shown(self.after)}, {change}{chance}"

    def remark(self) -> str:
        """A sentence where what came of the base is not shown to be above chance; else nothing."""
        if self.chance is None or self.above_chance(self.after):
            return ""
        reached = self.chance_is or "guessing"
        return f"{self.name} is not shown to be above {self.shown_chance()}, which {reached} reaches."

    def shown_chance(self) -> str:
        """Chance as people read it, empty where it is not known."""
        return "" if self.chance is None else self.shown(Interval(self.chance))

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
    name: str,
    before: Bool[Tensor, " n"],
    after: Bool[Tensor, " n"],
    *,
    chance: float | None = None,
    weights: Float[Tensor, " n"] | None = None,
    about: str = "",
    chance_is: str = "",
) -> Compared:
    """Of rows that are right or wrong: shares with Wilson's interval, their difference with a bootstrap over rows.

    Args:
        name: in words.
        before: whether the base is right.
        after: whether what came of it is.
        chance: see ``Compared``.
        weights: above 0, how much each row counts; None counts all alike. Wilson's interval is then that of Kish's
            effective number of rows, the squared sum of the weights over the sum of their squares.
        about: see ``Compared``.
        chance_is: see ``Compared``.

    Raises:
        InputError: no row, or not the same rows.
    """
    if before.shape != after.shape or not len(before):
        raise InputError(f"{name}: expected (n,) rows before and after, got {len(before)} and {len(after)}")
    weight = torch.ones(len(before), dtype=torch.float64) if weights is None else weights.double()
    whole = float(weight.sum())
    rows = whole**2 / float(weight.square().sum())
    rates = [float((weight * hits).sum()) / whole for hits in (before, after)]
    ends = [Interval(rate, *wilson_ends(rate, n=rows)) for rate in rates]
    change = weight * (after.double() - before.double())
    low, high = interval(change.numpy()[:, None], counts=weight.numpy()[:, None])[0]
    found = Interval(float(change.sum()) / whole, float(low), float(high))
    return Compared(name, ends[0], ends[1], found, len(before), chance=chance, about=about, chance_is=chance_is)


def means_figure(name: str, before: Float[np.ndarray, " n"], after: Float[np.ndarray, " n"], **told: Any) -> Compared:
    """Of numbers of n rows: their means and that of the differences, with a bootstrap over rows.

    Args:
        name: in words.
        before: with the base.
        after: with what came of it.
        told: further fields of ``Compared``.
    """
    table = np.stack([before, after, after - before], axis=1)
    ends = interval(table, counts=np.ones_like(table))
    found = [Interval(float(mean), *map(float, pair)) for mean, pair in zip(table.mean(axis=0), ends, strict=True)]
    return Compared(name, found[0], found[1], found[2], len(table), **told)


def drawn_figure(
    name: str, values: Iterable[float], *, draws: Float[np.ndarray, "r 2"], n: int, **told: Any
) -> Compared:
    """Of a number before and after, and draws of both from the same resampled rows.

    Args:
        name: in words.
        values: before and after.
        draws: likewise, of each resample.
        n: rows.
        told: further fields of ``Compared``.
    """
    ends = np.quantile(np.column_stack([draws, draws[:, 1] - draws[:, 0]]), [0.025, 0.975], axis=0).T
    first, last = map(float, values)
    pairs = zip((first, last, last - first), ends, strict=True)
    found = [Interval(number, *map(float, pair)) for number, pair in pairs]
    return Compared(name, found[0], found[1], found[2], n, **told)


def class_weights_of(labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """What each row counts where each class that occurs counts the same: one over the rows of its class."""
    return 1 / labels.bincount().double()[labels]


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
    """Accuracy and calibration error of the probabilities of the classes.

    Where classes have unequal numbers of rows, accuracy as the mean over the classes comes first, and so it decides
    whether something became better: plain accuracy rises for whoever answers the most frequent class whatever is seen,
    while such an answer leaves the mean over the classes at chance. Where all have equally many the two are one number.
    Chance of accuracy is therefore the share of the most frequent class, never below that of guessing; chance of the
    mean is one over the number of classes that occur.
    """
    first_hits, last_hits = (one.argmax(dim=1) == labels for one in (before, after))
    counts = labels.bincount()
    counts = counts[counts > 0]
    found = [
        hits_figure(
            "accuracy",
            first_hits,
            last_hits,
            chance=float(counts.max()) / len(labels),
            about="rows whose own class is the most probable one",
            chance_is="the most frequent class as the answer to every row",
        )
    ]
    if len(counts.unique()) > 1:
        mean = hits_figure(
            "accuracy, mean over classes",
            first_hits,
            last_hits,
            chance=1 / len(counts),
            weights=class_weights_of(labels),
            about="accuracy in each class, averaged, so that rare classes count as much as frequent ones",
            chance_is="one and the same answer to every row",
        )
        found.insert(0, mean)
    errors = [calibration_error(one, labels=labels) for one in (before, after)]
    about = "how far the probability of the answer is from the share of answers that are right; 0 is best"
    error = plain_figure("calibration error", *errors, n=len(labels), better="lower", unit="share", about=about)
    return [*found, error]


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
    about = (
        f"captions whose own image is among the {depth} nearest of all images"
        if depth > 1
        else ("captions whose own image is the nearest of all images")
    )
    return Compared(
        f"text to image, recall at {depth}", found[0], found[1], found[2], images, chance=expected, about=about
    )


def plain_figure(
    name: str,
    before: float,
    after: float,
    *,
    n: int,
    better: Better,
    unit: Literal["share", "number"] = "number",
    about: str = "",
) -> Compared:
    """A number without an interval; NaN and infinity are refused."""
    if not (math.isfinite(before) and math.isfinite(after)):
        raise InputError(f"{name}: expected finite numbers, got {before} and {after}")
    ends = Interval(before), Interval(after), Interval(after - before)
    return Compared(name, *ends, n, better=better, unit=unit, about=about)
