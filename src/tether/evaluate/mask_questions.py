"""How well a trained mask head finds the masks of a source, beside what the model before says of patches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from tether.adaptation.heads.masks import MasksHead
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.masks import BACKGROUND, NO_CLASS
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.core.types import Row
from tether.data.images import decode
from tether.data.regions import RegionColumns
from tether.models.heads.mask_models import PromptMasks, TrainedMasks
from tether.tasks.segment import MaftSegmenter, MtaSegmenter, Segmenter, TokenSegmenter, ValueSegmenter


@dataclass(frozen=True, slots=True)
class MaskAnswers:
    """Pixels by class and image: those that are of the class and are given it, and those of which one is true.

    Attributes:
        both: (3, n, k) of the model before, of the head, and of the most frequent class everywhere.
        either: (3, n, k) likewise.
    """

    both: Float[np.ndarray, "3 n k"]
    either: Float[np.ndarray, "3 n k"]

    def miou(self, weight: np.ndarray) -> Float[np.ndarray, " 3"]:
        """Mean IoU over the classes in truth or masks, each image counted as often as ``weight`` (n,) says."""
        both, either = weight @ self.both, weight @ self.either
        there = either > 0
        return np.where(there, both / np.where(there, either, 1), 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


@checked
def ask_masks(
    source: Source,
    *,
    before: DualEncoder,
    after: DualEncoder,
    head: MasksHead,
    columns: RegionColumns,
    limit: Count = 200,
) -> MaskAnswers | None:
    """Give every pixel a class and compare it with the masks of the source.

    Args:
        source: of images with regions and phrases. What no region covers is the class ``background`` where the head has
            one, else it is left out; so are regions of other classes than the head's.
        before: names patches by the texts of the classes, as ``tether segment`` does without a head.
        after: the head's encoder.
        head: trained by ``mask_text`` or ``mask_aware``.
        columns: of the regions.
        limit: images, at most. Those that cannot be read are left out.

    Returns:
        None where no pixel has a class, or the columns have no masks.
    """
    if "masks" not in columns.wanted():
        return None
    trained, count = TrainedMasks(head.masks, head.classes), len(head.classes)
    kind = MtaSegmenter if isinstance(head.masks, PromptMasks) else MaftSegmenter
    ways = [_plain(before, head.classes), kind(head=trained).prepare(after, head.classes)]
    truths: list[UInt8[np.ndarray, "h w"]] = []
    said: list[list[UInt8[np.ndarray, "h w"]]] = []
    for row in (row for block in source.blocks() for row in source.read(block)):
        if len(truths) == limit:
            break
        if row.bad or row.image is None:
            continue
        try:
            pixels = decode(row.image, name=row.key)
            truth = _truth(columns, row, head.classes, size=(int(pixels.shape[1]), int(pixels.shape[2])))
        except InputError:
            continue
        truths.append(truth)
        said.append([way.predict([pixels])[0].labels for way in ways])
    known = np.array([np.bincount(truth[truth != NO_CLASS], minlength=count) for truth in truths])
    if not known.any():
        return None
    most = np.uint8(known.sum(axis=0).argmax())
    answers = zip(*said, strict=True), [[np.full_like(truth, most) for truth in truths]]
    pairs = [
        [_overlap(label, truth, count=count) for label, truth in zip(some, truths, strict=True)]
        for some in itertools.chain(*answers)
    ]
    both, either = np.moveaxis(np.array(pairs, dtype=np.float64), 2, 0)
    return MaskAnswers(both, either)


def _truth(
    columns: RegionColumns, row: Row, classes: Sequence[str], *, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    found = columns.read(row, size=size)
    truth = np.full(size, classes.index(BACKGROUND) if BACKGROUND in classes else NO_CLASS, np.uint8)
    for number, phrase in enumerate(found.phrases):
        truth[columns.mask(found, number, size=size)] = classes.index(phrase) if phrase in classes else NO_CLASS
    return truth


def _plain(model: DualEncoder, classes: Sequence[str]) -> Segmenter:
    """What ``tether segment`` takes without a head."""
    try:
        return ValueSegmenter().prepare(model, classes)
    except UnsupportedModelError:  # a network of convolutions
        return TokenSegmenter().prepare(model, classes)


def _overlap(
    label: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], *, count: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Pixels by class that both say, and that one of them says, where there is a true class."""
    label, truth = label[truth != NO_CLASS], truth[truth != NO_CLASS]
    both, one, other = (
        np.bincount(some, minlength=NO_CLASS + 1)[:count] for some in (label[label == truth], label, truth)
    )
    return both, one + other - both
