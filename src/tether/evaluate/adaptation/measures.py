"""What a recipe may aim at beside accuracy and recall: measures by name, each of one source seen before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F

from tether.core.protocols import DualEncoder, Source
from tether.evaluate.adaptation.figures import Compared, Interval, plain_figure
from tether.evaluate.bootstrap import interval
from tether.evaluate.embeddings import Embedded
from tether.evaluate.geometry import modality_gap
from tether.evaluate.image_retrieval import image_retrieval


@dataclass(frozen=True, slots=True)
class Pictured:
    """The held-out part before and after; of texts alone there is no row of an image.

    Attributes:
        source: of its rows.
        before: the base.
        after: what came of it.
        seen_before: the rows as the base embeds them.
        seen_after: and as the other does.
    """

    source: Source
    before: DualEncoder
    after: DualEncoder
    seen_before: Embedded
    seen_after: Embedded


Measure = Callable[[Pictured], list[Compared]]


def gap(seen: Pictured) -> list[Compared]:
    """Distance of the centres of images and texts, of unit embeddings."""
    found = [
        float(modality_gap(F.normalize(one.image, dim=1), F.normalize(one.text, dim=1)))
        for one in (seen.seen_before, seen.seen_after)
    ]
    return [plain_figure("modality gap", found[0], found[1], n=len(seen.seen_before.image), better="lower")]


def image_search(seen: Pictured) -> list[Compared]:
    """Mean average precision of finding the other images of a class; nothing where no class has two images."""
    one = seen.seen_before
    if not one.labels or len(one.classes) == len(one.labels):
        return []
    columns = []
    for rows in (seen.seen_before, seen.seen_after):
        geometry = rows.geometry
        found = image_retrieval(geometry.points(rows.image), one.label_numbers, similarity=geometry.similarity)
        columns.append(found.average_precision.cpu().numpy())
    table = np.stack([*columns, columns[1] - columns[0]], axis=1)
    ends = interval(table, counts=np.ones_like(table))
    before, after, change = (
        Interval(float(mean), float(low), float(high))
        for mean, (low, high) in zip(table.mean(axis=0), ends, strict=True)
    )
    return [Compared("image to image, mean average precision", before, after, change, len(table))]


MEASURES: Mapping[str, Measure] = {"gap": gap, "image search": image_search}
"""What ``Recipe.aims`` may name."""
