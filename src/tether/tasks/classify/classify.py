"""The classes of a source's images, one by one, and the CSV file of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from tether.core.atomic_io import csv_file
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Share, checked
from tether.core.types import Batch, ImageSpec
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered, originals
from tether.tasks.classify.calibrate import LABELS, Calibration
from tether.tasks.classify.views import ViewHead
from tether.tasks.classify.zero_shot import Scores

Progress = Callable[[int, int | None], None]
_VIEWS = 8
"""Views of an image, at least: so many fewer whole images are taken at a time, and progress shows."""


class NamesImages(Protocol):
    """What ``classify`` asks: a ``ZeroShotClassifier``, or another head that is ready."""

    calibration: Calibration | None

    def predict(self, image: Any, /) -> Scores:
        """Scores of (b, 3, h, w) images at the model's size, or of whole images one by one."""
        ...


class RankedClass(NamedTuple):
    """One of the classes most like an image.

    Attributes:
        name: of the class.
        confidence: 0 to 1; a probability only after calibration.
        cosine: of the image and the class; the logit where a trained head names the images.
    """

    name: str
    confidence: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Label:
    """The class of one image.

    Attributes:
        key: of the image.
        label: name of the class; empty where the confidence was too low, or none of the classes fits.
        ranked: the classes most like it, best first.
    """

    key: str
    label: str
    ranked: tuple[RankedClass, ...]

    @property
    def confidence(self) -> float:
        """Of the best class, 0 to 1; a probability only after calibration."""
        return self.ranked[0].confidence


@checked
def classify(
    source: Source,
    *,
    head: NamesImages,
    image_spec: ImageSpec,
    bad: BadRows,
    top: Count = 3,
    abstain: Share = 0.0,
    above: float | None = None,
    batch_size: Count = 64,
    workers: int = 0,
    on_progress: Progress | None = None,
) -> Iterator[Label]:
    """Name every good image of a source, in its order.

    Args:
        source: where the images come from.
        head: prepared with the model and the classes; a ``ViewHead`` is given images in their own pixels, a few at a
            time.
        image_spec: how the model wants its images.
        bad: the account of rows that are skipped.
        top: classes listed for each image.
        abstain: least confidence for a label to be given.
        above: what the cosine of the best class must exceed for a label to be given, so that an image of none of the
            classes may get none.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        on_progress: called with (images done, None).

    Raises:
        InputError: no good row, or a bad row under a strict account.
    """
    if abstain > 0 and head.calibration is None:
        warnings.warn(
            "abstaining by a confidence that was not calibrated: it is the model's own and may be far from the "
            "fraction that is right; give labelled images to calibrate on",
            stacklevel=2,
        )
    done = 0
    if isinstance(head, ViewHead):
        few = max(1, batch_size // _VIEWS)
        batches = originals(source, bad=bad, batch_size=few, workers=workers)
    else:
        batches = ordered(source, image_spec=image_spec, batch_size=batch_size, workers=workers, on_bad=bad)
    for rows, pixels in batches:
        scores = head.predict(pixels)
        for row, found in zip(rows, named(scores, top=top, abstain=abstain, above=above), strict=True):
            yield Label(row.key, *found)
        done += len(rows)
        if on_progress is not None:
            on_progress(done, None)
    if not done:
        raise InputError(f"{source.name}: {bad.nothing_good()}")


def named(
    scores: Scores, *, top: int, abstain: float, above: float | None = None
) -> Iterator[tuple[str, tuple[RankedClass, ...]]]:
    """The label of each row of scores, empty for none, and its ``top`` classes."""
    order = scores.order(top=top)
    table = (order, scores.probability.gather(1, order), scores.cosine.gather(1, order))
    labels = scores.labels(abstain=abstain, above=above)
    for label, *best in zip(labels, *(each.tolist() for each in table), strict=True):
        yield label or "", tuple(RankedClass(scores.classes[i], *each) for i, *each in zip(*best, strict=True))


def ranked_columns(ranked: Sequence[RankedClass], *, measure: str = "cosine") -> list[str]:
    """Names of the columns that ``ranked_cells`` fills."""
    ranks = range(1, len(ranked) + 1)
    return [f"{name}_{rank}" for rank in ranks for name in ("class", "confidence", measure)]


def ranked_cells(ranked: Sequence[RankedClass]) -> list[str]:
    """Name, confidence and similarity of each class."""
    return [cell for name, *numbers in ranked for cell in (name, *(f"{each:.6f}" for each in numbers))]


def write_csv(labels: Sequence[Label], path: Path, *, raw_csv: bool = False, measure: str = "cosine") -> None:
    """Labels as a CSV file, written atomically.

    Its columns are ``key``, ``label``, ``confidence``, and for each class listed ``class_i``, ``confidence_i``,
    ``cosine_i``.

    Args:
        labels: at least one, all with as many classes listed.
        path: of the file.
        measure: what the last columns are called.
        raw_csv: write keys and names that a spreadsheet would run as formulas as they are, not with an apostrophe.
    """
    columns = ["key", "label", "confidence", *ranked_columns(labels[0].ranked, measure=measure)]
    with csv_file(path, columns, raw_csv=raw_csv) as table:
        for one in labels:
            table.write([one.key, one.label, f"{one.confidence:.6f}", *ranked_cells(one.ranked)])


def labelled(
    source: Source,
    *,
    model: DualEncoder,
    classes: Sequence[str],
    column: str,
    batch_size: int,
    workers: int,
    own_pixels: bool = False,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[Batch]:
    """Images with the numbers of their classes, to prepare a head with.

    Args:
        source: of the images.
        model: whose images they become.
        classes: all names.
        column: of the rows that holds a name; a row without it may have its label as its only caption.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        own_pixels: give each image by itself in its own pixels, for a ``ViewHead``.
        on_progress: called with (images given, None).

    Raises:
        InputError: a row without a label, or with one that is no class.
    """
    number = {name: i for i, name in enumerate(classes)}
    no_text, done = torch.empty(0, 0, dtype=torch.int64), 0
    if own_pixels:
        bad = BadRows(source.name, path=None, strict=False)
        single = originals(source, bad=bad, batch_size=1, workers=workers)
        batches = ((rows, torch.stack(images)) for rows, images in single)
    else:
        batches = ordered(source, image_spec=model.image_spec, batch_size=batch_size, workers=workers)
    for rows, pixels in batches:
        labels = []
        for row in rows:
            label = row.meta.get(column, row.texts[0] if len(row.texts) == 1 else None)
            if label is None:
                raise InputError(f"{source.name}: row {row.key!r} has neither a column {column!r} nor one caption")
            if str(label) not in number:
                raise InputError(
                    f"{source.name}: row {row.key!r}: {str(label)!r} is none of the {len(classes)} classes"
                )
            labels.append(number[str(label)])
        yield Batch(image=pixels, text=no_text, extra={LABELS: torch.tensor(labels)})
        done += len(labels)
        if on_progress is not None:
            on_progress(done, None)
