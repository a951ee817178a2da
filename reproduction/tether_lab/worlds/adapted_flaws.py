"""Products with flaws: adapters that learn from those of some shapes, asked about those of other shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch

from tether.adaptation.recipes.defect_rows import DefectRows
from tether.adaptation.recipes.tuning import play
from tether.methods.adaptclip.adapters import TrainedAdapters
from tether.methods.adaptclip.head import AnomalyAdaptersHead
from tether.methods.adaptclip.recipe import AnomalyAdaptersRecipe
from tether.models.towers.clip import Clip
from tether.models.towers.frozen_copy import frozen_copy
from tether.tasks.anomaly import Detector
from tether_lab.lab.lab import Lab
from tether_lab.worlds import flawed_things
from tether_lab.worlds.flaw_figures import flaw_figures
from tether_lab.worlds.flawed_things import DAMAGED, NORMAL, SEEN, TEMPLATES, UNSEEN, Flawed

LOOKS, EACH = 4, 20
"""Of each shape to learn from: products, and images of each."""
ASKED_LOOKS, ASKED = 2, 40
"""Of each other shape: products, and images of each, beside the good one."""
APART = 1000
"""Of the seeds of looks."""
SETTINGS: dict[str, Any] = {
    "good_states": ("{}", *NORMAL),
    "bad_states": DAMAGED,
    "templates": TEMPLATES,
    "post_norm": True,
    "hidden": 32,
    "epochs": 10,
}
BLOCK = 1
"""Of the memory of patches."""


@dataclass(frozen=True, slots=True)
class Product:
    """Images of one thing.

    Attributes:
        images: half of them flawed.
        good: one that is not.
    """

    images: Flawed
    good: Flawed


@dataclass(frozen=True, slots=True)
class Bed:
    """What all arms of a seed share.

    Attributes:
        model: the CLIP.
        seen: products to learn from.
        unseen: products of other shapes.
    """

    model: Clip
    seen: Sequence[Flawed]
    unseen: Sequence[Product]


def prepare(lab: Lab) -> Bed:
    """Teach the CLIP and draw products."""
    seen = [
        flawed_things.flawed(_look(lab, look), f"seen {shape}", lab.steps(EACH, 6), (shape,), alike=True)
        for shape in SEEN
        for look in range(LOOKS)
    ]
    unseen = [
        Product(
            flawed_things.flawed(_look(lab, look), f"asked {shape}", lab.steps(ASKED, 8), (shape,), alike=True),
            flawed_things.flawed(_look(lab, look), f"good {shape}", 1, (shape,), damaged=0.0, alike=True),
        )
        for shape in UNSEEN
        for look in range(ASKED_LOOKS)
    ]
    return Bed(flawed_things.base(lab), seen, unseen)


def _look(lab: Lab, look: int) -> Lab:
    """A lab of its own, as things of a shape have one look for each seed."""
    from tether_lab.lab.lab import Lab

    return Lab(lab.seed + APART * look, smoke=lab.smoke)


def learnt(lab: Lab, bed: Bed, **settings: Any) -> TrainedAdapters:
    """What ``tether adapt --recipe anomaly-adapters`` learns from the seen products."""
    model = frozen_copy(bed.model)
    if lab.smoke:
        settings["epochs"] = 1
    recipe = AnomalyAdaptersRecipe(**{**SETTINGS, **settings})
    reader = recipe.reader(model)
    with torch.no_grad():
        rows = torch.cat([reader.encode_image(one.pixels).pooled for one in bed.seen])
    damaged = torch.cat([one.damaged for one in bed.seen])
    given = DefectRows(
        rows,
        damaged.long(),
        torch.cat([one.masks for one in bed.seen]),
        torch.ones_like(damaged),
        tuple(str(number) for number, one in enumerate(bed.seen) for _ in range(len(one))),
    )
    head = play(recipe.describe(model, given, seed=lab.seed), model, seed=lab.seed).outcome
    assert head is not None
    return cast(AnomalyAdaptersHead, head.head).inner


def scores(detector: Detector, bed: Bed, *, shots: Literal[0, 1]) -> tuple[float, float]:
    """Image AUROC and average precision of pixels in percent, the mean over unseen products.

    Args:
        detector: of any kind; it is prepared.
        bed: of the seed.
        shots: good images of each product that it sees.
    """
    detector.prepare(bed.model, "object")
    found = []
    for product in bed.unseen:
        detector.remember(detector.look(list(product.good.pixels)) if shots else [])
        maps = detector.predict(list(product.images.pixels))
        said = torch.tensor([one.score for one in maps]), torch.from_numpy(np.stack([one.values for one in maps]))
        figures = flaw_figures(product.images, *said)
        found.append((figures["image_auroc"], figures["pixel_ap"]))
    image, pixel = np.mean(found, axis=0)
    return float(image), float(pixel)
