"""What a recipe may aim at beside accuracy and recall: measures by name, each of one source seen before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.adapt.heads import AnomalyAdaptersHead, DefectTextsHead, Head
from tether.adapt.heads.masks import MasksHead
from tether.adapt.heads.quality import QualityHead
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.data.bad_rows import BadRows
from tether.data.defect_truths import DefectTruths
from tether.data.degrade import LADDERS
from tether.data.labelled import label_of
from tether.data.loader import ordered
from tether.data.masked_regions import masked_regions
from tether.data.regions import RegionColumns
from tether.evaluate.adaptation.defects import ask_defects
from tether.evaluate.adaptation.figures import (
    Compared,
    drawn_figure,
    hits_figure,
    means_figure,
    plain_figure,
    shares_figure,
)
from tether.evaluate.box_questions import ask_boxes
from tether.evaluate.embeddings import Embedded
from tether.evaluate.geometry import modality_gap
from tether.evaluate.groups import worst_group_accuracy
from tether.evaluate.image_retrieval import image_retrieval
from tether.evaluate.mask_questions import ask_masks
from tether.evaluate.masked_questions import masked_hits
from tether.evaluate.order import LEAST, order_correlation
from tether.evaluate.quality_ladder import SIZED_FOR, ladder_correlations, level_order
from tether.evaluate.region_questions import ask_regions
from tether.evaluate.robustness.typos import typo_robustness
from tether.models.embed import encode_texts
from tether.tasks.anomaly import AdaptclipDetector, AnomalyclipDetector
from tether.tasks.quality import QualityScorer

ATTACKED = 100
"""Texts that are attacked, at most."""
MASKED = 500
"""Images whose regions are cut out, at most."""
PHOTOS = 60
"""Images that are degraded, at most."""
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


Measure = Callable[[Pictured], list[Compared]]


def gap(seen: Pictured) -> list[Compared]:
    """Distance of the centres of images and texts, of unit embeddings."""
    found = [
        float(modality_gap(F.normalize(one.image, dim=1), F.normalize(one.text, dim=1)))
        for one in (seen.seen_before, seen.seen_after)
    ]
    about = "distance between the centre of the images and that of the texts, of embeddings of length 1"
    rows = len(seen.seen_before.image)
    return [plain_figure("modality gap", found[0], found[1], n=rows, better="lower", about=about)]


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
    about = "how far up the other images of its class stand in the list that an image is answered with; 1 is best"
    return [means_figure("image to image, mean average precision", columns[0], columns[1], about=about)]


def typos(seen: Pictured) -> list[Compared]:
    """Texts under attack that still lie nearest to their own clean row by the base, among those of the other texts."""
    read = (row for block in seen.source.blocks() for row in seen.source.read(block))
    texts = list(dict.fromkeys(text for row in read for text in row.texts))[:ATTACKED]
    if len(texts) < 2:
        return []
    rows, found = encode_texts(seen.before, texts), []
    for model in (seen.before, seen.after):
        found.append(
            typo_robustness(
                model,
                texts,
                gallery=rows,
                labels=torch.arange(len(texts)),
                attack="leaf",
                clean=rows,
                generator=torch.Generator().manual_seed(0),
            )
        )
    before, after = found
    about = "texts nearest to their own unharmed row of the base"
    return [
        hits_figure(name, *hits, chance=1 / len(texts), about=about)
        for name, hits in (
            ("known without a typo", (before.clean, after.clean)),
            ("known after one typo, the worst of 100", (before.attacked, after.attacked)),
        )
    ]


def worst_group(seen: Pictured) -> list[Compared]:
    """Accuracy of the worst of the groups that class and column make, among rows that have a value there."""
    values = seen.values()
    some = [row for row, value in enumerate(values) if value is not None]
    if seen.said is None or not some:
        return []
    labels = [seen.seen_before.labels[row] for row in some]
    before, after = (
        worst_group_accuracy(
            [str(int(number)) for number in one.argmax(dim=1)[some]],
            labels=labels,
            attribute=[str(values[row]) for row in some],
        )
        for one in seen.said
    )
    worst = [min((group.accuracy for group in one.groups), key=lambda share: share.rate) for one in (before, after)]
    name = f"accuracy of the worst group of class and {seen.columns['value']}"
    return [shares_figure(name, worst[0], worst[1], n=len(some), chance=1 / seen.said[0].shape[1])]


def twins(seen: Pictured) -> list[Compared]:
    """Images nearer, by cosine, to their first caption than to the text of the column, where the two differ."""
    pairs = zip(seen.values(), seen.seen_before.first_captions, strict=True)
    found = [
        (row, first, value)
        for row, (value, first) in enumerate(pairs)
        if value is not None and first >= 0 and value != seen.seen_before.captions[first]
    ]
    if not found:
        return []
    rows, captions, others = (list(column) for column in zip(*found, strict=True))
    hits = []
    for model, one in ((seen.before, seen.seen_before), (seen.after, seen.seen_after)):
        both = one.text[captions], encode_texts(model, others)
        own, other = (F.cosine_similarity(one.image[rows], text) for text in both)
        hits.append(own > other)
    return [hits_figure("nearer to the caption than to its twin", hits[0], hits[1], chance=0.5)]


def order(seen: Pictured) -> list[Compared]:
    """Spearman's correlation with the column's numbers, by the text alone and by the head; the mean over texts."""
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


def regions(seen: Pictured) -> list[Compared]:
    """Regions named among all phrases, by their alpha against no mask and against their crops, and pairs told apart."""
    asked = ask_regions(seen.source, before=seen.before, after=seen.after, columns=RegionColumns(**seen.columns))
    if asked is None:
        return []
    found = [
        hits_figure("region named, without a mask against with it", asked.unmasked, asked.masked, chance=asked.chance),
        hits_figure("region named, by its crop against by its mask", asked.cropped, asked.masked, chance=asked.chance),
    ]
    if len(asked.follows):
        never = torch.zeros_like(asked.follows)  # one answer for an image, whichever region is meant
        found.append(hits_figure("both of two regions told apart by their masks", never, asked.follows))
    return found


def boxes(seen: Pictured) -> list[Compared]:
    """Boxes named among all phrases by the patches inside, and by their crops; nothing without columns of both."""
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


def masked_crops(seen: Pictured) -> list[Compared]:
    """Regions named among all phrases by what is left of the image when the rest is blank."""
    spec = seen.before.image_spec
    try:
        found = masked_regions(
            seen.source,
            columns=RegionColumns(**seen.columns),
            size=spec.size,
            fill=tuple(255 * value for value in spec.mean),
            limit=MASKED,
        )
    except InputError:
        return []
    if len(found.phrases) < 2:
        return []
    hits = [masked_hits(model, found) for model in (seen.before, seen.after)]
    return [hits_figure("region named by its masked crop", hits[0], hits[1], chance=1 / len(found.phrases))]


def masks(seen: Pictured) -> list[Compared]:
    """Mean IoU of the masks of patches named by texts, as without a head, and of those that the head finds."""
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


def quality(seen: Pictured) -> list[Compared]:
    """Spearman's correlation of score and level, of images degraded step by step in the ways that were trained."""
    head = seen.head
    if not isinstance(head, QualityHead):
        return []
    spec = seen.before.image_spec.fixed()
    twice = replace(spec, size=(2 * spec.size[0], 2 * spec.size[1]), resized=None)  # as the recipe reads them
    read = ordered(seen.source, image_spec=twice, batch_size=1, on_bad=BadRows(seen.source.name), limit=PHOTOS)
    photos = [pixels[0] for _, pixels in read]
    if not photos:
        return []
    kinds = seen.columns.get("kinds", LADDERS)
    before = QualityScorer(seen.before, head.prompts, scale=head.scale, grid=1)
    after = QualityScorer(seen.after, head.prompts, scale=head.scale, text=head.text, grid=1)
    ways = [kinds[row % len(kinds)] for row in range(len(photos))]
    found = [
        ladder_correlations(level_order(one.score, photos, kinds=ways, sized_for=2 * SIZED_FOR))
        for one in (before, after)
    ]
    about = "mean over images of Spearman's correlation of the score with the level of degradation; -1 is best"
    name = "quality score against level of degradation (by the prompts alone; trained)"
    return [means_figure(name, found[0], found[1], better="lower", unit="number", about=about)]


def defects(seen: Pictured) -> list[Compared]:
    """How well defects are found by sentences and by what a head has learnt: images, and their places."""
    if isinstance(seen.head, DefectTextsHead):
        inner = seen.head.inner
        layers, learnt = inner.layers, AnomalyclipDetector(head=inner)
    elif isinstance(seen.head, AnomalyAdaptersHead):
        inner = seen.head.inner
        layers, learnt = inner.layers[-1:], AdaptclipDetector(head=inner)
    else:
        return []
    plain = AnomalyclipDetector(blocks=inner.blocks, layers=layers, post_norm=inner.post_norm, size=inner.image_size)
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


MEASURES: Mapping[str, Measure] = {
    "boxes": boxes,
    "gap": gap,
    "image search": image_search,
    "typos": typos,
    "worst group": worst_group,
    "twins": twins,
    "order": order,
    "regions": regions,
    "masked crops": masked_crops,
    "masks": masks,
    "quality": quality,
    "defects": defects,
}
"""What ``Recipe.aims`` may name."""
