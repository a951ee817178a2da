"""What a recipe may aim at beside accuracy and recall: measures by name, each of one source seen before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads import Head
from tether.adaptation.heads.masks import MasksHead
from tether.core.protocols import DualEncoder, Source
from tether.data.defect_truths import DefectTruths
from tether.data.labelled import label_of
from tether.data.regions import RegionColumns
from tether.evaluate.adaptation.defects import ask_defects
from tether.evaluate.adaptation.figures import (
    Compared,
    drawn_figure,
    hits_figure,
    means_figure,
)
from tether.evaluate.box_questions import ask_boxes
from tether.evaluate.embeddings import Embedded
from tether.evaluate.mask_questions import ask_masks
from tether.evaluate.order import LEAST, order_correlation
from tether.tasks.anomaly import DETECTORS, AnomalyclipDetector

RESAMPLES = 1000
"""Draws of the images of masks."""


@dataclass(frozen=True, slots=True)
class Pictured:
    """The held-out part before and after; of texts alone there is no row of an image.

    Attributes:
        source: of its rows.
        before: the base.
        after: what came of it.
        seen_before: the rows as the base embeds them.
        seen_after: and as the other does.
        said: (n, c) probabilities of the classes of labelled images before and after, by texts or by a head; of a head
            that orders images, by a text a column, their similarities and its scores; or None.
        columns: of the rows: ``value``, that of a measure, ``text``, which of ``texts`` an image is ordered by, or the
            settings of ``data.regions.RegionColumns``.
        texts: what a head orders images by.
        head: what came of the base beside a model, or in its place; or None.
    """

    source: Source
    before: DualEncoder
    after: DualEncoder
    seen_before: Embedded
    seen_after: Embedded
    said: tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = ()
    head: Head | None = None

    def values(self, name: str = "value") -> list[str | None]:
        """What stands in the column of this name in each row that was embedded; None where there is nothing."""
        column = self.columns.get(name)
        found: list[str | None] = []
        keys = self.seen_before.keys
        for row in (row for block in self.source.blocks() for row in self.source.read(block)):
            if len(found) < len(keys) and row.key == keys[len(found)]:  # bad rows have no embedding
                found.append(None if column is None else label_of(row, column))
        return found


class Measure(Protocol):
    """What a recipe aims at, made without settings."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """Figures of one held-out part before and after; none where it has nothing to measure."""
        ...


class OrderMeasure:
    """Spearman's correlation with the column's numbers, by the text alone and by the head; the mean over texts."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        if seen.said is None:
            return []
        several = seen.columns.get("text") is not None
        said = [_place(seen.texts, value) if several else 0 for value in seen.values("text")]
        numbers = [_number(value) for value in seen.values()]
        rows = [row for row, number in enumerate(numbers) if said[row] >= 0 and number is not None]
        groups = np.array([said[row] for row in rows], dtype=int)
        if not len(groups) or np.bincount(groups).max() < LEAST:
            return []
        scores = np.stack([one[rows, groups].double().numpy() for one in seen.said], axis=1)
        found = order_correlation(scores, targets=np.array([numbers[row] for row in rows]), groups=groups)
        name = "order of held-out images, Spearman's correlation (by the text alone; by the head)"
        return [drawn_figure(name, found.value, draws=found.draws, n=found.n, chance=0.0, unit="number")]


def _place(names: Sequence[str], value: str | None) -> int:
    return -1 if value not in names else list(names).index(str(value))


def _number(value: str | None) -> float | None:
    try:
        found = float("nan" if value is None else value)
    except ValueError:
        return None
    return found if np.isfinite(found) else None


class BoxMeasure:
    """Boxes named among all phrases by the patches inside, and by their crops; nothing without columns of both."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        if seen.columns.get("boxes") is None or seen.columns.get("phrases") is None:
            return []
        asked = ask_boxes(seen.source, models=[seen.before, seen.after], columns=RegionColumns(**seen.columns))
        if not asked:
            return []
        before, after = asked
        found = []
        if before.patches is not None and after.patches is not None:
            name = "box named by the patches inside"
            found.append(hits_figure(name, before.patches, after.patches, chance=before.chance))
        return [*found, hits_figure("box named by its crop", before.crops, after.crops, chance=before.chance)]


class MaskMeasure:
    """Mean IoU of the masks of patches named by texts, as without a head, and of those that the head finds."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        if not isinstance(seen.head, MasksHead):
            return []
        columns = RegionColumns(**seen.columns)
        asked = ask_masks(seen.source, before=seen.before, after=seen.after, head=seen.head, columns=columns)
        if asked is None:
            return []
        images, rng = asked.both.shape[1], np.random.default_rng(0)
        drawn = [asked.miou(np.bincount(rng.integers(0, images, images), minlength=images)) for _ in range(RESAMPLES)]
        *values, chance = asked.miou(np.ones(images)).tolist()
        about = "mean over classes of the pixels that masks and truth share, of those that either has"
        name = "mean IoU of masks (patches named by texts; the head)"
        chance_is = "the most frequent class everywhere"
        draws = np.array(drawn)[:, :2]
        return [drawn_figure(name, values, draws=draws, n=images, chance=chance, about=about, chance_is=chance_is)]


class DefectMeasure:
    """How well defects are found by sentences and by what a head has learnt: images, and their places."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        if seen.head is None or seen.head.verb != "detect":
            return []
        use = seen.head.use()
        inner = use.brought["head"]
        learnt = DETECTORS[use.method](**use.brought)  # pyrefly: ignore - a member takes what a head brings
        plain = AnomalyclipDetector(
            blocks=inner.blocks, layers=inner.plain_layers, post_norm=inner.post_norm, size=inner.image_size
        )
        asked = ask_defects(seen.source, seen.before, [plain, learnt], truths=DefectTruths(**seen.columns))
        if asked is None:
            return []
        found, ways = list[Compared](), "(by sentences; by what was learnt)"
        if (areas := asked.image_auroc()) is not None:
            values, draws = areas
            draws, count = draws[np.isfinite(draws).all(axis=1)], len(asked.defective)
            about = "chance that a defective image scores above a normal one"
            found.append(drawn_figure(f"image AUROC {ways}", values, draws=draws, n=count, chance=0.5, about=about))
        if asked.pixels.shape[1]:
            about = "chance that a defective pixel scores above a normal one of its image, mean over defective images"
            found.append(means_figure(f"pixel AUROC {ways}", *asked.pixels, chance=0.5, about=about))
        return found
