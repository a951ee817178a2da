"""How well defects are found: image AUROC and AP, pixel AUROC and AUPRO, with intervals over whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.ranges import Count, Part, checked
from tether.evaluate.dense import Measured
from tether.evaluate.medical.report import curves, ranked

MOST_PIXELS = 2**27
"""Pixels whose scores are held to be sorted, 0.5 GB; images beyond are not in the figures of pixels."""
_BINS = 1024  # of scores, from which the intervals of pixel figures are drawn


@dataclass(frozen=True, slots=True)
class AnomalyFigure:
    """One figure with its chance level.

    Attributes:
        name: of the figure.
        measured: its value and interval; None where it is not defined.
        chance: what scores without meaning have.
        why: what the chance level is, if it is no fixed number.
    """

    name: str
    measured: Measured | None
    chance: float
    why: str = ""

    def __str__(self) -> str:
        """In per cent."""
        if self.measured is None:
            return f"{self.name} none"
        return f"{self.name} {self.measured}; chance is {self.chance:.1%}{self.why and f', {self.why}'}"


@dataclass(frozen=True, slots=True)
class AnomalyReport:
    """Agreement of scores and maps with what is known of the images.

    Attributes:
        image_auroc: chance that a defective image scores above a normal one; 0.5 is chance.
        average_precision: of the images; the share of defective ones is chance.
        pixel_auroc: chance that a defective pixel scores above a normal one, of all images together.
        aupro: mean share of each defect that is found, averaged over the rates of false pixels up to ``limit``.
        limit: of ``aupro``.
        images: how many were measured.
        defective: how many of them have a defect.
        notes: what is not defined, and why; the figure is None there.
    """

    image_auroc: Measured | None
    average_precision: Measured | None
    pixel_auroc: Measured | None
    aupro: Measured | None
    limit: float
    images: int
    defective: int
    notes: Sequence[str] = ()

    def figures(self) -> list[AnomalyFigure]:
        """All four, each with what scores without meaning would have."""
        share = self.defective / max(1, self.images)
        return [
            AnomalyFigure("image AUROC", self.image_auroc, 0.5),
            AnomalyFigure("image average precision", self.average_precision, share, "the share of defective images"),
            AnomalyFigure("pixel AUROC", self.pixel_auroc, 0.5),
            AnomalyFigure(f"AUPRO up to {self.limit:.0%} false pixels", self.aupro, self.limit / 2),
        ]

    def not_above_chance(self) -> list[str]:
        """Names of the figures whose interval reaches down to chance."""
        return [one.name for one in self.figures() if one.measured and one.measured.interval[0] <= one.chance]

    def lines(self) -> list[str]:
        """What a person reads."""
        first = f"{self.images:,} images with labels, {self.defective:,} of them defective, 95 % intervals over images"
        return [first, *map(str, self.figures()), *self.notes]


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Scores of an image's pixels.

    Attributes:
        normal: of normal ones.
        defective: of the others.
        weights: for each of those 1 / area of its defect.
        defects: how many there are.
    """

    normal: Float[np.ndarray, " n"]
    defective: Float[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    defects: int


class AnomalyScores:
    """Collects images one by one.

    AUROC, average precision and AUPRO are those of ``anomalib.metrics``: equal scores are one threshold, lines between
    thresholds, pieces of a mask that touch at a corner are one defect. Pixels of all images are held, 4 bytes each, as
    figures of pixels need them in order. AUPRO: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021.

    Example:
        >>> import numpy as np
        >>> from tether.core.anomaly_map import AnomalyMap
        >>> from tether.evaluate.anomaly import AnomalyScores
        >>> values = np.array([[0.1, 0.2], [0.1, 0.9]], dtype=np.float32)
        >>> scores = AnomalyScores()
        >>> scores.add(AnomalyMap(0.9, values, size=(2, 2)), mask=values > 0.5)
        >>> scores.add(AnomalyMap(0.3, values / 3, size=(2, 2)), mask=np.zeros((2, 2), dtype=bool))
        >>> report = scores.report()
        >>> report.image_auroc.value, report.pixel_auroc.value, report.aupro.value
        (1.0, 1.0, 1.0)
    """

    @checked
    def __init__(self, *, limit: Part = 0.3) -> None:
        """Start empty.

        Args:
            limit: rate of false pixels up to which AUPRO counts.
        """
        self.limit = limit
        self._scores: list[float] = []
        self._defective: list[bool] = []
        self._pixels: list[_Pixels] = []
        self._without = self._beyond = self._held = 0

    def add(
        self, found: AnomalyMap, *, mask: Bool[np.ndarray, "h w"] | None = None, defective: bool | None = None
    ) -> None:
        """Add an image.

        Args:
            found: what was said of it.
            mask: True where it is defective, at its size; None where only ``defective`` is known.
            defective: whether it is; None takes it from the mask. A defective image without a mask counts in the
                figures of images alone.

        Raises:
            InputError: neither of both, both that disagree, or a mask of another size.
        """
        if mask is None and defective is None:
            raise InputError("mask: expected one, or defective, got neither")
        if mask is not None:
            if mask.shape != found.size or mask.dtype != np.bool_:
                raise InputError(f"mask: expected bool {found.size}, got {mask.dtype} {mask.shape}")
            if defective is not None and defective != bool(mask.any()):
                raise InputError(f"defective: expected {bool(mask.any())}, as the mask says, got {defective}")
        bad = bool(mask.any()) if mask is not None else bool(defective)
        self._scores.append(found.score)
        self._defective.append(bad)
        if mask is None and bad:
            self._without += 1
            return
        if self._held + found.size[0] * found.size[1] > MOST_PIXELS:
            self._beyond += 1
            return
        self._held += found.size[0] * found.size[1]
        self._pixels.append(_pixels_of(found.pixels(), mask))

    @checked
    def report(self, *, resamples: Count = 1000, seed: int = 0) -> AnomalyReport:
        """The figures of all images so far.

        Args:
            resamples: how often as many images are drawn with replacement.
            seed: of the draws.

        Raises:
            InputError: no image.
        """
        if not self._scores:
            raise InputError("labels: no image with a label")
        scores, truth = np.array(self._scores), np.array(self._defective)
        notes, found = list[str](), list[Measured | None]()
        rng = np.random.default_rng(seed)
        if truth.all() or not truth.any():
            what = "defective" if truth.all() else "normal"
            notes.append(f"every image with a label is {what}: there is no AUROC and no average precision of images")
            found += [None, None]
        else:
            rows, draws = ranked(scores, truth=truth), _draws(len(scores), resamples, rng)
            exact = curves(rows, weights=np.ones((1, len(scores))))
            for value, many in zip(exact, curves(rows, weights=draws), strict=True):
                found.append(_measured(float(value[0]), many))
        defects = sum(one.defects for one in self._pixels)
        if not defects:
            notes.append("no mask shows a defect: there are no figures of pixels")
            found += [None, None]
        elif not sum(len(one.normal) for one in self._pixels):
            notes.append("the masks show no normal pixel: there are no figures of pixels")
            found += [None, None]
        else:
            found += self._of_pixels(_draws(len(self._pixels), resamples, rng))
        if self._without:
            notes.append(f"{self._without:,} defective images have no mask and are not in the figures of pixels")
        if self._beyond:
            told = f"of more than {MOST_PIXELS:,} pixels"
            notes.append(f"{told} the last {self._beyond:,} images are not in the figures of pixels")
        image_auroc, precision, pixel_auroc, aupro = found
        counts = len(scores), int(truth.sum())
        return AnomalyReport(image_auroc, precision, pixel_auroc, aupro, self.limit, *counts, tuple(notes))

    def _of_pixels(self, draws: Float[np.ndarray, "r n"]) -> tuple[Measured, Measured]:
        """Pixel AUROC and AUPRO: the values exact, the intervals from scores in bins."""
        normal = np.concatenate([one.normal for one in self._pixels])
        defective = np.concatenate([one.defective for one in self._pixels])
        weights = np.concatenate([one.weights for one in self._pixels])
        exact = (
            area(normal, defective, weights=np.ones(len(defective)), limit=1.0),
            area(normal, defective, weights=weights, limit=self.limit),
        )
        edges = np.quantile(_some(np.concatenate([_some(normal), _some(defective)])), np.linspace(0, 1, _BINS + 1))
        edges = np.unique(edges[1:-1])
        below, ones, shares = (
            np.stack([_binned(getattr(one, of), edges, counted(one)) for one in self._pixels])
            for of, counted in (
                ("normal", lambda one: None),
                ("defective", lambda one: None),
                ("defective", lambda one: one.weights),
            )
        )
        found = []
        for value, above, limit in ((exact[0], ones, 1.0), (exact[1], shares, self.limit)):
            every = np.ones((1, len(draws[0])))
            shift = value - _binned_area(every @ below, every @ above, limit=limit)[0]
            found.append(_measured(value, _binned_area(draws @ below, draws @ above, limit=limit) + shift))
        return found[0], found[1]


def area(
    normal: Float[np.ndarray, " n"],
    defective: Float[np.ndarray, " m"],
    *,
    weights: Float[np.ndarray, " m"],
    limit: float,
) -> float:
    """Area under the weighted share of defective pixels found against the share of normal ones, divided by ``limit``.

    Args:
        normal: scores of normal pixels, one at least.
        defective: scores of the others, one at least.
        weights: of those; 1 gives pixel AUROC, 1 / area of the pixel's defect AUPRO.
        limit: share of normal pixels up to which the area counts.
    """
    values, counts = np.unique(normal, return_counts=True)
    order = np.argsort(defective, kind="stable")
    seen = np.r_[0.0, np.cumsum(weights[order])]
    ends = [np.searchsorted(defective[order], values, side=side) for side in ("right", "left")]
    after, at = ((seen[-1] - seen[end])[::-1] / seen[-1] for end in ends)  # above each normal score, and with ties
    false = np.r_[0.0, np.cumsum(counts[::-1]) / len(normal)]
    return float(_under(false[None], after[None], at[None], limit=limit)[0])


def _under(
    false: Float[np.ndarray, "r k1"], before: Float[np.ndarray, "r k"], after: Float[np.ndarray, "r k"], *, limit: float
) -> Float[np.ndarray, " r"]:
    """Area under lines from ``before`` to ``after``, one for each step of ``false``, up to ``limit``, divided by it."""
    step = np.diff(false, axis=1)
    inside = np.clip(limit - false[:, :-1], 0, step)
    share = np.divide(inside, step, out=np.zeros_like(step), where=step > 0)
    return (inside * (before + share * (after - before) / 2)).sum(axis=1) / limit


def _binned_area(
    normal: Float[np.ndarray, "r k"], defective: Float[np.ndarray, "r k"], *, limit: float
) -> Float[np.ndarray, " r"]:
    """``area`` for each row of counts by bins, from low to high; NaN where a row has none."""
    false, true = (np.cumsum(one[:, ::-1], axis=1) for one in (normal, defective))
    with np.errstate(invalid="ignore", divide="ignore"):
        false, true = (np.pad(one / one[:, -1:], ((0, 0), (1, 0))) for one in (false, true))
    return _under(false, true[:, :-1], true[:, 1:], limit=limit)


def _pixels_of(values: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"] | None) -> _Pixels:
    from scipy import ndimage

    if mask is None or not mask.any():
        return _Pixels(values.reshape(-1), np.empty(0, np.float32), np.empty(0), 0)
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(pieces.reshape(-1), minlength=count + 1)
    return _Pixels(values[~mask], values[mask], 1 / sizes[pieces[mask]], count)


def _binned(
    scores: Float[np.ndarray, " n"], edges: Float[np.ndarray, " k"], weights: Float[np.ndarray, " n"] | None
) -> Float[np.ndarray, " k1"]:
    place: Int[np.ndarray, " n"] = np.searchsorted(edges, scores, side="right")
    return np.bincount(place, weights=weights, minlength=len(edges) + 1).astype(np.float64)


def _some(scores: Float[np.ndarray, " n"], most: int = 1 << 20) -> Float[np.ndarray, " m"]:
    return scores[:: max(1, len(scores) // most)]


def _draws(count: int, resamples: int, rng: np.random.Generator) -> Float[np.ndarray, "r n"]:
    """How often each image is drawn."""
    drawn = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples)]
    return np.array(drawn, dtype=np.float64)


def _measured(value: float, many: Float[np.ndarray, " r"]) -> Measured:
    if np.isnan(many).all():
        return Measured(value, (value, value))
    low, high = np.nanquantile(many, [0.025, 0.975])
    return Measured(value, (float(max(0.0, low)), float(min(1.0, high))))
