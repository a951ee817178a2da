"""Recipes of ``tether adapt`` that move weights, on a few images of classes that a small CLIP never saw."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tether.adaptation.recipes import RECIPES, Given
from tether.adaptation.weights import interpolate
from tether.core.component import build
from tether.evaluate.few_shot import Draw, FewShotAnswer, Method, rows_at
from tether.methods.clip_svd import Svd
from tether.methods.clipood import class_texts
from tether.models.embed import encode_images, encode_texts
from tether.models.encoders.tower_parts import SIDES
from tether.models.features.parametrization import linears
from tether.models.towers.clip import Clip
from tether.workflows.adaptation.run import run
from tether_lab.lab.lab import Lab
from tether_lab.worlds.domain_shift import TEMPLATE
from tether_lab.worlds.held_out_things import HeldOutThings, ThingRows
from tether_lab.worlds.in_memory import unit_images

HALFWAY = 0.5
SPREAD = 0.2
"""By how much singular values are moved at random, as a share of each, before they are merged."""


@dataclass
class Tunings:
    """Recipes on the same draws; a second question about a draw finds the model that the first one made.

    Attributes:
        things: the world.
        settings: of each recipe, by its name.
    """

    things: HeldOutThings
    settings: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        self._made: dict[tuple[str, int, int], Clip] = {}

    def untuned(self, draw: Draw) -> FewShotAnswer:
        """The small CLIP as it is."""
        del draw
        return answer(self.things, self.things.model)

    def method(self, name: str) -> Method:
        """A recipe."""
        return lambda draw: answer(self.things, self.tuned(name, draw))

    def halfway(self, name: str) -> Method:
        """The weights half way between the small CLIP's and a recipe's."""
        base = self.things.model
        return lambda draw: answer(self.things, interpolate(base, self.tuned(name, draw), share=HALFWAY))

    def tuned(self, name: str, draw: Draw) -> Clip:
        """What a recipe makes of the small CLIP."""
        key = (name, draw.shots, draw.seed)
        if key not in self._made:
            made = build({"name": name, **self.settings[name]}, RECIPES, where="test bed")
            done = run(made, self.things.model, given(self.things, draw), folder=None)
            self._made[key] = cast(Clip, done.outcome.model)
        return self._made[key]


def given(things: HeldOutThings, draw: Draw) -> Given:
    """A draw as a recipe takes it, its classes numbered from 0."""
    prompts = tuple(things.prompts[label] for label in draw.classes)
    rows = rows_at(things.train, sorted(draw.train), classes=draw.classes)
    return Given(
        "labels",
        rows.part(range(len(rows.labels)), prompts=prompts, name="train"),
        len(draw.train),
        classes=rows.classes,
        prompts=prompts,
        class_text=class_texts(things.model, rows.classes, template=TEMPLATE),
        seed=draw.seed,
    )


def answer(things: HeldOutThings, model: Clip) -> FewShotAnswer:
    """A model's own choice of the nearest class text."""
    images = unit_images(model, pixels_of(things), batch=250)

    def said(rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
        text = class_texts(model, [things.train.classes[label] for label in classes], template=TEMPLATE)
        return np.array(classes)[(images[torch.from_numpy(rows)] @ text.T).argmax(dim=1).numpy()]

    return said


def pixels_of(things: HeldOutThings) -> Tensor:
    """Images to ask about, (m, 3, 32, 32)."""
    return cast(ThingRows, things.test.source).pixels


def exact(lab: Lab, things: HeldOutThings) -> dict[str, float]:
    """What always holds of singular values in the place of weights.

    Returns:
        ``at_once``: largest change of an embedding by ``apply_``, as a share of its length;
        ``by_merging``: the same by ``merge_``, after the values were moved at random;
        ``trainable``: numbers that learn; ``trainable_off``: how far that is from the sum over all maps of the shorter
        of their two sides; ``trainable_share``: per cent of the model's numbers that learn.
    """
    model, edit = copy.deepcopy(things.model), Svd()
    whole = sum(one.numel() for one in model.parameters())
    weights = [place.weight for side in SIDES for place in linears(model, side=side)]
    ranks = sum(min(weight.shape) for weight in weights)
    before = _outputs(model, things)
    edit.apply_(model)
    at_once = _change(before, _outputs(model, things))
    learning = [one for one in model.parameters() if one.requires_grad]
    generator = lab.generator("singular values")
    with torch.no_grad():
        for one in learning:
            one.mul_(1 + SPREAD * torch.randn(one.shape, generator=generator))
    moved = _outputs(model, things)
    edit.merge_(model)
    trainable = sum(one.numel() for one in learning)
    return {
        "at_once": at_once,
        "by_merging": _change(moved, _outputs(model, things)),
        "trainable": float(trainable),
        "trainable_off": float(abs(trainable - ranks)),
        "trainable_share": 100 * trainable / whole,
    }


def _outputs(model: Clip, things: HeldOutThings) -> Tensor:
    texts = [prompt for prompts in things.prompts for prompt in prompts]
    return torch.cat([encode_images(model, [pixels_of(things)[:100]]), encode_texts(model, texts)])


def _change(before: Tensor, after: Tensor) -> float:
    return float(((after - before).norm(dim=1) / before.norm(dim=1)).max())
