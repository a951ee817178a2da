"""A small CLIP of scenes and captions whose image tower is tuned for handwritten digits by FT-CLIP's recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.tuning import Outcome, play
from tether.core.types import Batch
from tether.data.sets.digits import NAMES, DigitsSet
from tether.methods.ft_clip.recipe import READ, ClassifierRecipe
from tether.models import Clip, create
from tether.models.features.mean_patches import patch_tokens
from tether.models.tokenizer import lengths
from tether.models.train_mode import eval_mode
from tether.training.tensor_batches import ReplayedBatches
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip
from tether_lab.worlds import domain_shift
from tether_lab.worlds.in_memory import draws, fit_pairs, percent

SIDE, LAYERS = domain_shift.IMAGE_SIZE, 4
BASE_IMAGES, BASE_STEPS, BASE_BATCH, WARMUP = 6000, 800, 64, 80
"""Images, steps, pairs of a batch and steps of warm-up that the CLIP learns by."""
STEPS, BATCH = 320, 32
"""Of each tuning: eight passes over some 1,250 digits."""
LEAST_CROP = 0.4
"""Least area of a crop: on less than that a digit cannot be read."""


@dataclass(frozen=True, slots=True)
class DigitsTold:
    """Per cent of held-out digits that are told rightly after a tuning.

    Attributes:
        last: by the weights of the last step.
        average: by their average.
    """

    last: float
    average: float


def base(lab: Lab) -> Clip:
    """A CLIP of single things, by captions of a colour and a shape; it has seen no digit."""
    said = [domain_shift.TEMPLATE.format(name) for name in domain_shift.CLASSES]

    def teach() -> Clip:
        count = lab.steps(BASE_IMAGES, 64)
        things = domain_shift.draw(domain_shift.CLASSES, count=count, rng=np.random.default_rng([lab.seed, 1]))
        model = create("tiny", seed=lab.seed, image_size=SIDE, vision={"layers": LAYERS})
        tokens = model.tokenizer(said)
        tokens = tokens[:, : int(lengths(tokens).max())]
        model.prune_vocabulary_(tokens)
        rows = draws(count, size=BASE_BATCH, generator=lab.generator("base"))
        texts, steps = tokens[things.labels], lab.steps(BASE_STEPS)
        return fit_pairs(model, things.pixels, texts, rows=rows, steps=steps, warmup=WARMUP, seed=lab.seed)

    model = cached_clip("captioned-things", teach, made_by=Path(__file__), facts=[lab.seed, lab.smoke])
    model.prune_vocabulary_(model.tokenizer(said))  # the average of weights copies every table at each step
    return model


class Bench:
    """One start and the digits: every tuning sees the same images, changed in the same way, in the same order."""

    def __init__(self, lab: Lab) -> None:
        """Args: lab: seed and budget."""
        self._lab, self._train = lab, DigitsSet(split="train", size=SIDE)
        test = DigitsSet(split="test", size=SIDE)
        self._pixels = torch.from_numpy(test.pixels).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(test.labels)
        self._batches: list[Batch] = []

    def tuned(self, **settings: Any) -> DigitsTold:
        """What is told after a tuning; no digit is mirrored.

        Args:
            **settings: of ``ClassifierRecipe``.
        """
        lab, model = self._lab, base(self._lab)
        recipe = ClassifierRecipe(steps=lab.steps(STEPS), batch_size=BATCH, least_crop=LEAST_CROP, flip=0.0, **settings)
        given = Given("labels", self._train, len(self._train), classes=NAMES, seed=lab.seed)
        tuning = recipe.tuning(model, given)
        read, finish, last = tuning.modules[READ], tuning.finish, float("nan")
        assert finish is not None
        if not self._batches:
            self._batches = [next(tuning.batches) for _ in range(lab.steps(STEPS))]

        def again() -> Iterator[Batch]:
            return cycle(self._batches)

        def watched() -> Outcome:
            nonlocal last
            last = self._told(model, read)
            return finish()  # from here on the model holds the average

        play(replace(tuning, batches=ReplayedBatches(again), finish=watched), model, seed=lab.seed)
        return DigitsTold(last, self._told(model, read))

    def at_rest(self) -> float:
        """What a logistic regression on the mean patches of the tower at rest tells, of images as they are."""
        model = base(self._lab)
        seen = torch.from_numpy(self._train.pixels).permute(0, 3, 1, 2)
        with torch.no_grad(), eval_mode(model):
            rows = [
                torch.cat([patch_tokens(model, some).mean(dim=1) for some in pixels.split(256)]).numpy()
                for pixels in (seen, self._pixels)
            ]
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        line.fit(rows[0], self._train.labels)
        return 100 * float(line.score(rows[1], self._labels.numpy()))

    def _told(self, model: Clip, read: nn.Module) -> float:
        with torch.no_grad(), eval_mode(model):
            logits: Tensor = read(patch_tokens(model, self._pixels))
        return percent(logits.argmax(dim=1) == self._labels)
