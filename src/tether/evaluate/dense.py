"""How well masks agree with true classes: IoU, pixel accuracy and boundary F1, with intervals over whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int, UInt8

from tether.core.errors import InputError
from tether.core.masks import NO_CLASS, check_names
from tether.core.ranges import Count, checked
from tether.evaluate.bootstrap import interval

Interval = tuple[float, float]
MOST_TOLERANCE = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """A number and its 95 % interval: the bootstrap draws as many images, with replacement."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        """In per cent."""
        return f"{self.value:.1%} ({self.interval[0]:.1%} to {self.interval[1]:.1%})"


@dataclass(frozen=True, slots=True)
class DenseReport:
    """Agreement of masks with true classes.

    Attributes:
        miou: mean IoU of the classes that are in the labels or in the masks.
        iou: by class, intersection over union of its pixels in all images together; such classes alone.
        accuracy: share of the labelled pixels that have their class.
        boundary_f1: the mean over images of the function ``boundary_f1``; None where no image has a boundary.
        tolerance: pixels that a boundary may be off.
        images: how many had labels.
        pixels: how many of them had a class.
    """

    miou: Measured
    iou: Mapping[str, Measured]
    accuracy: Measured
    boundary_f1: Measured | None
    tolerance: int
    images: int
    pixels: int

    def lines(self) -> list[str]:
        """What a person reads."""
        told = [
            f"{self.images:,} labelled images, 95 % intervals over images",
            f"mIoU {self.miou}",
            f"pixel accuracy {self.accuracy}",
            f"boundary F1 at {self.tolerance} pixels {self.boundary_f1 or 'none: no image has a boundary'}",
        ]
        return [*told, *(f"IoU of {name} {figure}" for name, figure in self.iou.items())]


class MaskScores:
    """Collects images one by one; what is kept of each are counts.

    Example:
        >>> import numpy as np
        >>> from tether.evaluate.dense import MaskScores
        >>> truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], dtype=np.uint8)
        >>> scores = MaskScores(("road", "sky"), tolerance=0)
        >>> scores.add(np.zeros_like(truth), truth=truth)
        >>> report = scores.report()
        >>> report.accuracy.value, report.miou.value  # 4 of 7; (4/7 + 0) / 2
        (0.5714285714285714, 0.2857142857142857)
    """

    @checked
    def __init__(self, classes: Sequence[str], *, tolerance: Annotated[int, Ge(0), Le(MOST_TOLERANCE)] = 2) -> None:
        """Start empty.

        Args:
            classes: names, in the order of their numbers.
            tolerance: pixels that a boundary may be off.
        """
        check_names(classes)
        self.classes, self.tolerance = tuple(classes), tolerance
        self._confusions: list[Int[np.ndarray, "k k"]] = []
        self._boundaries: list[float] = []

    def add(self, labels: UInt8[np.ndarray, "h w"], *, truth: UInt8[np.ndarray, "h w"]) -> None:
        """Add an image.

        Args:
            labels: number of the class that each pixel was given; 255, none, is never right.
            truth: true numbers, 255 where none counts.

        Raises:
            InputError: two sizes, or a number that no class has.
        """
        count = len(self.classes)
        if labels.shape != truth.shape or labels.ndim != 2:
            raise InputError(f"truth: expected {labels.shape}, got {truth.shape}")
        for name, values in (("labels", labels), ("truth", truth)):
            if (strange := values[(values >= count) & (values != NO_CLASS)]).size:
                raise InputError(f"{name}: expected 0 to {count - 1}, or {NO_CLASS} for none, got {int(strange[0])}")
        known = truth != NO_CLASS
        given = np.minimum(labels[known], count).astype(np.int64)  # none is a column of its own
        pairs = truth[known].astype(np.int64) * (count + 1) + given
        self._confusions.append(np.bincount(pairs, minlength=count * (count + 1)).reshape(count, count + 1))
        self._boundaries.append(boundary_f1(labels, truth, classes=count, tolerance=self.tolerance))

    @checked
    def report(self, *, resamples: Count = 1000, seed: int = 0) -> DenseReport:
        """The figures of all images so far.

        Args:
            resamples: how often as many images are drawn with replacement.
            seed: of the draws.

        Raises:
            InputError: no image, or no pixel with a class.
        """
        if not self._confusions or not any(one.any() for one in self._confusions):
            raise InputError("labels: no image with a labelled pixel")
        confusion = np.stack(self._confusions).astype(np.float64)
        count = len(self.classes)
        both = np.diagonal(confusion[:, :, :count], axis1=1, axis2=2)
        either = confusion.sum(2) + confusion[:, :, :count].sum(1) - both
        pixels, border = confusion.sum((1, 2)), np.array(self._boundaries)
        bounded = ~np.isnan(border)

        def figures(sums: Float[np.ndarray, "n c"], counts: Float[np.ndarray, "n c"]) -> list[Measured]:
            values = (sums.sum(0) / counts.sum(0)).tolist()
            ends = interval(sums, counts=counts, resamples=resamples, seed=seed).tolist()
            return [Measured(value, (low, high)) for value, (low, high) in zip(values, ends, strict=True)]

        seen = np.flatnonzero(either.sum(0))
        ious = figures(both[:, seen], either[:, seen])
        accuracy = figures(both.sum(1, keepdims=True), pixels[:, None])[0]
        boundary = np.where(bounded, border, 0)[:, None], bounded[:, None].astype(np.float64)
        return DenseReport(
            _mean(both, either, resamples=resamples, seed=seed),
            {self.classes[number]: figure for number, figure in zip(seen, ious, strict=True)},
            accuracy,
            figures(*boundary)[0] if bounded.any() else None,
            self.tolerance,
            len(confusion),
            int(pixels.sum()),
        )


def _mean(both: Float[np.ndarray, "n k"], either: Float[np.ndarray, "n k"], *, resamples: int, seed: int) -> Measured:
    """The mean over classes, which may be others in each draw: ``bootstrap.interval`` has none of such a mean."""

    def mean(weight: Int[np.ndarray, " n"]) -> float:
        above, below = weight @ both, weight @ either
        there = below > 0
        return float(np.mean(above[there] / below[there])) if there.any() else float("nan")

    n, rng = len(both), np.random.default_rng(seed)
    drawn = [mean(np.bincount(rng.integers(0, n, n), minlength=n)) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Measured(mean(np.ones(n, dtype=np.int64)), (float(low), float(high)))


def boundary_f1(
    labels: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], *, classes: int, tolerance: int = 2
) -> float:
    """Mean over classes of the F1 of their boundaries, of one image.

    A pixel is on the boundary of its class where a neighbour to its side has another one, and is right where the other
    map has a boundary of that class within ``tolerance`` pixels. A class without a boundary in both maps is left out,
    one without in one of them counts 0. Pixels without a true class are no part of the image.

    Source: Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013.

    Args:
        labels: number of the class of each pixel.
        truth: true numbers, 255 where none counts.
        classes: how many there are.
        tolerance: pixels, as the crow flies.

    Returns:
        0 to 1; NaN where no class has a boundary.
    """
    from scipy import ndimage

    known = truth != NO_CLASS
    edges = [_edges(np.where(known, one, NO_CLASS), known) for one in (labels, truth)]
    found = []
    for number in range(classes):
        given, true = ((one == number) & edge for one, edge in zip((labels, truth), edges, strict=True))
        counts = int(given.sum()), int(true.sum())
        if not any(counts):
            continue
        if not all(counts):
            found.append(0.0)
            continue
        rows, columns = _around(given | true, tolerance)
        given, true = given[rows, columns], true[rows, columns]
        from_true, from_given = (np.asarray(ndimage.distance_transform_edt(~one)) for one in (true, given))
        precision = (given & (from_true <= tolerance)).sum() / counts[0]
        recall = (true & (from_given <= tolerance)).sum() / counts[1]
        found.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(found)) if found else float("nan")


def _edges(labels: UInt8[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels beside one of another class, both known."""
    found = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        one, other = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        differ = (labels[one] != labels[other]) & known[one] & known[other]
        found[one] |= differ
        found[other] |= differ
    return found


def _around(mask: Bool[np.ndarray, "h w"], margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask, and a margin."""
    lines = (np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)))
    down, across = (slice(max(0, int(line[0]) - margin), int(line[-1]) + margin + 1) for line in lines)
    return down, across
