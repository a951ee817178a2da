"""What a recipe may aim at beside accuracy and recall: measures by name, each of one source seen before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tether.core.protocols import DualEncoder, Source
from tether.evaluate.adaptation.figures import Compared, hits_figure, plain_figure
from tether.evaluate.embeddings import Embedded
from tether.evaluate.geometry import modality_gap
from tether.evaluate.robustness.typos import typo_robustness
from tether.models.embed import encode_texts

ATTACKED = 100
"""Texts that are attacked, at most."""


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
    return [
        hits_figure("known without a typo", before.clean, after.clean, chance=1 / len(texts)),
        hits_figure("known after one typo, the worst of 100", before.attacked, after.attacked, chance=1 / len(texts)),
    ]


MEASURES: Mapping[str, Measure] = {"gap": gap, "typos": typos}
"""What ``Recipe.aims`` may name."""
