"""How many of the named shape an image shows: an order by a text, from words, ridge regression and an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.adaptation.recipes.order import OrderRecipe, OrderRows
from tether.adaptation.recipes.tuning import play
from tether.evaluate.order import order_correlation
from tether.losses.ranking import Component
from tether.models.embed import encode_images
from tether.models.towers.clip import Clip
from tether.tasks.rank import fit_ridge, scores_by_text
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import SHAPES, ShapeScenes

THINGS, COUNTS = 4, (1, 4)
"""Things of every image, and how many of them have the shape that its text names."""
EXAMPLES, ASKED = 200, 150
"""Images of each text."""
STEPS, GROUP, LAYERS = 1_000, 16, 1
WORDS: tuple[tuple[str, str | None], ...] = (("many {}s", "few {}s"), ("four {}s", "one {}"), ("a {}", None))
"""What a high and a low image show; the best of them on the examples is the order by words alone."""


class CountedScenes(ShapeScenes):
    """Scenes of four things with ``text``, such as "number of stars", and ``count``, of each of the four shapes.

    Attributes:
        groups: (n,) number of each one's text.
        counts: (n,) the counts.
    """

    def __init__(self, lab: Lab, name: str, *, each: int) -> None:
        """Draw them.

        Args:
            lab: seed.
            name: of the draws.
            each: images of a text.
        """
        parts = []
        for shape in SHAPES:
            world = drawn_shapes.shape_world((THINGS, THINGS), counted=(shape, *COUNTS))
            parts.append(drawn_shapes.drawn_scenes(lab, f"{name} {shape}", count=each, world=world))
        super().__init__(name, [scene for part in parts for scene in part.scenes], lab=lab)
        self.groups = np.repeat(np.arange(len(SHAPES)), each)
        shapes = [SHAPES[group] for group in self.groups]
        pairs = zip(self.scenes, shapes, strict=True)
        self.counts = np.array([sum(one.shape == shape for one in scene.things) for scene, shape in pairs], float)
        self.rows = [
            replace(row, meta={"text": f"number of {shape}s", "count": int(count)})
            for row, shape, count in zip(self.rows, shapes, self.counts, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class SeenCounts:
    """Scenes as the CLIP sees them.

    Attributes:
        groups: number of each one's text.
        counts: what they are ordered by.
        rows: embeddings.
        tokens: patches.
    """

    groups: Int[np.ndarray, " n"]
    counts: Float[np.ndarray, " n"]
    rows: Float[Tensor, "n d"]
    tokens: OrderRows

    def part(self, places: Int[np.ndarray, " m"]) -> SeenCounts:
        """Some of them."""
        some = torch.from_numpy(places)
        return SeenCounts(self.groups[places], self.counts[places], self.rows[some], self.tokens.part(some))


@dataclass(frozen=True, slots=True)
class CountBench:
    """What all arms of a seed share.

    Attributes:
        model: the CLIP, which rests.
        examples: to learn from; their patches mirrored as well.
        asked: held out.
    """

    model: Clip
    examples: SeenCounts
    asked: SeenCounts


def prepare(lab: Lab) -> CountBench:
    """Teach the CLIP, draw scenes and embed them."""
    model, parts = drawn_shapes.captioned_base(lab), []
    for name, each, flip in (("examples", EXAMPLES, "half"), ("asked", ASKED, "none")):
        scenes = CountedScenes(lab, name, each=lab.steps(each, 6))
        rows = encode_images(model, drawn_shapes.pixels_of(scenes).split(256))
        tokens = OrderRecipe(column="count", text_column="text", flip=flip).read(model, scenes)
        parts.append(SeenCounts(scenes.groups, scenes.counts, rows, tokens))
    return CountBench(model, parts[0], parts[1])


def correlation(scores: Float[np.ndarray, " n"], seen: SeenCounts) -> float:
    """Spearman's, of the images of each text, the mean over texts."""
    found = order_correlation(scores[:, None], targets=seen.counts, groups=seen.groups, resamples=1)
    return float(found.value[0])


def by_words(bed: CountBench) -> dict[str, float]:
    """Of the asked: by each pair of ``WORDS`` (its first word), and ``best``, the one that the examples say is best."""
    found, known = {}, {}
    for by, against in WORDS:
        name = by.split()[0]
        for part, kept in ((bed.examples, known), (bed.asked, found)):
            scores = np.zeros(len(part.counts))
            for number, shape in enumerate(SHAPES):
                some = part.groups == number
                other = None if against is None else against.format(shape)
                said = scores_by_text(bed.model, part.rows[torch.from_numpy(some)], by=by.format(shape), against=other)
                scores[some] = said.numpy()
            kept[name] = correlation(scores, part)
    return {**found, "best": found[max(known, key=lambda name: known[name])]}


def by_ridge(bed: CountBench, *, patches: bool = False) -> float:
    """Ridge regression of each text's counts on embeddings, or on all patches; its strength by leaving one out."""
    both = (bed.examples, bed.asked)
    learnt, rows = [part.tokens.tokens[:, 0].flatten(1) if patches else part.rows for part in both]
    scores = np.zeros(len(bed.asked.counts))
    for number in range(len(SHAPES)):
        known, some = bed.examples.groups == number, bed.asked.groups == number
        fitted = fit_ridge(learnt[torch.from_numpy(known)], targets=bed.examples.counts[known])
        scores[some] = fitted(rows[torch.from_numpy(some)])
    return correlation(scores, bed.asked)


def by_adapter(lab: Lab, bed: CountBench, *, components: Sequence[Component], rate: float) -> float:
    """The recipe ``order``: one adapter for all texts.

    Args:
        lab: seed and budget.
        bed: of the seed.
        components: of its loss.
        rate: learning rate.
    """
    recipe = OrderRecipe(
        column="count",
        text_column="text",
        negatives=0.0,
        components=components,
        group=lab.steps(GROUP, 4),
        steps=lab.steps(STEPS),
        learning_rate=rate,
        n_layers=LAYERS,
    )
    made = play(recipe.describe(bed.model, bed.examples.tokens, seed=lab.seed), bed.model, seed=lab.seed).outcome
    assert made is not None
    assert made.head is not None
    scores = made.head.scores(bed.asked.tokens.tokens[:, 0].flatten(1)).numpy()
    return correlation(scores[np.arange(len(scores)), bed.asked.groups], bed.asked)
