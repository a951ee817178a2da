"""From which similarity on words are said to fit an image: fitted on pairs that belong together and on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.shape import NUMBER, check
from tether.evaluate.bootstrap import interval
from tether.evaluate.embeddings import Embedded, embed_source

FILE = "cutoff.json"
FALSE = 0.01
"""Share of false pairs that the cutoff ``auto`` lets pass."""
LEAST_IMAGES = 10
MOST_IMAGES = 1000
"""Held-out images that cutoffs are fitted on, at most."""
_FALSE_RATES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, FALSE, 0.005, 0.002, 0.001, 0.0)
_TRUE_RATES = (1.0, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True, slots=True)
class Rates:
    """What lies above a threshold.

    Attributes:
        threshold: a similarity, as the model compares.
        true: share of the pairs that belong together.
        true_low: lower end of its 95 % interval over images.
        true_high: upper end.
        false: share of the pairs that do not; some of these fit by chance, so it is rather too high.
        false_low: lower end of its interval.
        false_high: upper end.
    """

    threshold: float
    true: float
    true_low: float
    true_high: float
    false: float
    false_low: float
    false_high: float


_SHAPE = {
    "digest": str,
    "source": str,
    "images": int,
    "captions": int,
    "table": [{field.name: NUMBER for field in fields(Rates)}],
}


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """Thresholds of one model with their rates.

    Attributes:
        digest: of the model's weights.
        source: of the pairs.
        images: of these.
        captions: of these.
        table: by rising threshold.
    """

    digest: str
    source: str
    images: int
    captions: int
    table: Sequence[Rates]

    def auto(self) -> Rates:
        """The lowest threshold that at most ``FALSE`` of the false pairs pass."""
        return next(row for row in self.table if row.false <= FALSE)

    def at(self, threshold: float) -> Rates:
        """The rates of any threshold, between those of the two nearest."""
        columns = np.array([astuple(row) for row in self.table]).T
        return Rates(threshold, *(float(np.interp(threshold, columns[0], column)) for column in columns[1:]))

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A cutoff in use.

    Attributes:
        threshold: what lies above it fits.
        rates: its rates, or None where nothing is known of them.
        source: of the pairs that they were measured on.
        images: how many images these have.
        learnt: how many of these the model learnt from.
    """

    threshold: float
    rates: Rates | None = None
    source: str = ""
    images: int = 0
    learnt: int = 0

    def line(self, *, pool: int) -> str:
        """What it means for so many images."""
        said = f"cutoff {self.threshold:.3f}"
        if self.rates is None:
            return f"{said}; its rates are not known"
        one = self.rates
        line = (
            f"{said}: on {self.images:,} images of {self.source}, {one.true:.0%} of the true pairs lie above it "
            f"({one.true_low:.0%} to {one.true_high:.0%}) and {one.false:.2%} of the others ({one.false_low:.2%} to "
            f"{one.false_high:.2%}), which is {one.false * pool:,.1f} of {pool:,} images"
        )
        if one.true_low <= one.false_high:
            line += "; true and other pairs are hardly separated, so it decides nothing"
        if self.learnt:
            line += (
                f"; the model learnt from {self.learnt:,} of these images, so fewer true pairs of new ones lie above "
                "it: fit it on images that it has not seen"
            )
        return line


def none_above(threshold: float, *, best: float, pool: int, filtered: bool = False) -> str:
    """What is said where no image of so many, or of those of them that pass a filter, scores more than a cutoff."""
    of = f"those that pass the filter, of {pool:,} images," if filtered else f"{pool:,} images"
    return f"nothing found: the best of {of} scores {best:.3f}, the cutoff is {threshold:.3f}"


def fit_cutoffs(seen: Embedded, *, digest: str, source: str) -> Cutoffs:
    """Measure how often pairs that belong together, and all others, lie above thresholds.

    An image with a caption of the same words as another's belongs to both.

    Args:
        seen: pairs that the model did not learn from.
        digest: of the model's weights.
        source: name of the pairs.

    Raises:
        InputError: too few images with captions, or all with the same.
    """
    rows, owner = torch.unique(seen.text_to_image, return_inverse=True)
    number = {caption: at for at, caption in enumerate(dict.fromkeys(seen.captions))}
    group = torch.tensor([number[caption] for caption in seen.captions], dtype=torch.int64)
    if len(rows) < LEAST_IMAGES:
        raise InputError(
            f"{source}: expected at least {LEAST_IMAGES} images with captions to fit a cutoff on, got {len(rows)}"
        )
    geometry = seen.geometry
    scores = geometry.similarity(geometry.points(seen.text), geometry.points(seen.image[rows])).double()
    if not scores.isfinite().all():
        raise InputError(f"{source}: some similarities are not finite, so no cutoff can be fitted on them")
    holds = torch.zeros(len(number), len(rows), dtype=torch.bool)
    holds[group, owner] = True
    false = ~holds[group]
    if not false.any():
        raise InputError(f"{source}: all images have the same captions, so no cutoff can be fitted on them")
    true = torch.zeros_like(false)
    true[torch.arange(len(owner)), owner] = True
    thresholds = np.unique(
        [
            *np.quantile(scores[false], [1 - rate for rate in _FALSE_RATES], method="higher"),
            *np.quantile(scores[true], [1 - rate for rate in _TRUE_RATES], method="lower"),
        ]
    )
    own = np.stack([_by_image(scores, true, owner, above=float(at)) for at in thresholds], axis=1)
    other = np.stack([_by_both(scores, false, owner, above=float(at)) for at in thresholds], axis=1)
    found = []
    for values in (own, other):
        ends = np.clip(interval(values, counts=np.ones_like(values)), 0, 1)
        found.append((values.mean(axis=0), ends[:, 0], ends[:, 1]))
    columns = np.stack([thresholds, *found[0], *found[1]], axis=1)
    table = [Rates(*map(float, row)) for row in columns]
    return Cutoffs(digest, source, len(rows), len(seen.captions), table)


def _by_image(
    scores: Float[Tensor, "m n"], asked: Bool[Tensor, "m n"], owner: Tensor, *, above: float
) -> Float[np.ndarray, " n"]:
    """For each image the share of its captions above a threshold."""
    counts = torch.zeros(scores.shape[1], dtype=torch.float64).index_add(0, owner, asked.double().sum(dim=1))
    hits = ((scores > above) & asked).double().sum(dim=1)
    sums = torch.zeros(scores.shape[1], dtype=torch.float64).index_add(0, owner, hits)
    return (sums / counts.clamp_min(1)).numpy()


def _by_both(
    scores: Float[Tensor, "m n"], asked: Bool[Tensor, "m n"], owner: Tensor, *, above: float
) -> Float[np.ndarray, " n"]:
    """For each image what it adds to the rate of false pairs, as an image and by its captions.

    Both sides of a false pair are drawn, so its mean varies with both: the first terms of its Hájek projection.
    """
    hits = ((scores > above) & asked).double()
    as_image = hits.sum(dim=0) / asked.double().sum(dim=0).clamp_min(1)
    mean = hits.sum() / asked.sum()
    by_captions = torch.from_numpy(_by_image(scores, asked, owner, above=above))
    adds = as_image + by_captions - mean
    return (adds - adds.mean() + mean).numpy()


def keep_cutoffs(model: DualEncoder, held_out: Source, *, limit: int | None, folder: Path, digest: str) -> None:
    """Fit cutoffs on held-out pairs and write them into a run's folder; nothing where there are too few.

    Args:
        model: encoder that embeds the pairs.
        held_out: source of the pairs.
        limit: number of rows that are looked at, from the first; None for all.
        folder: folder of the run.
        digest: digest of the model.
    """
    try:
        seen = embed_source(model, held_out, limit=min(limit or MOST_IMAGES, MOST_IMAGES))
        found = fit_cutoffs(seen, digest=digest, source=held_out.name)
    except InputError:
        return
    found.save(folder / FILE)


def read_cutoffs(path: Path) -> Cutoffs | None:
    """What ``Cutoffs.save`` wrote, or None where there is no file.

    Raises:
        InputError: a file that is malformed.
    """
    if not path.is_file():
        return None
    values = read_json(path)
    check(values, _SHAPE, where=str(path))
    names = [field.name for field in fields(Rates)]
    table = [Rates(*(float(row[name]) for name in names)) for row in values["table"]]
    if not table or table[-1].false > FALSE or any(a.threshold >= b.threshold for a, b in pairwise(table)):
        raise InputError(f"{path}: table: expected rising thresholds up to a false rate of at most {FALSE}")
    return Cutoffs(**{name: values[name] for name in ("digest", "source", "images", "captions")}, table=table)
