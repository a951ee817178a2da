"""A tiny CLIP on emoji and their names, English or German, with or without the pairs of translations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.component import build
from tether.core.protocols import DualEncoder
from tether.core.types import Batch
from tether.losses import OBJECTIVES
from tether.models import create
from tether.models.towers.clip import Clip
from tether.training.steps.composed import ComposedStep
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import draws, fit_batches, unit_pairs, unit_texts
from tether_lab.worlds.pairs import Pairs, emoji

SIDE, CONTEXT, BATCH, STEPS, WARMUP, RATE = 32, 48, 128, 300, 30, 4e-3
LANGUAGES = ("en", "de")
TAU = 0.05
"""Temperature of the text pairs, jina-clip's."""


class EmbeddedNames(NamedTuple):
    """Unit rows of a split.

    Attributes:
        image: of drawings.
        text: of their English names.
        translation: of their German ones.
    """

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "n d"]
    translation: Float[Tensor, "n d"]


def names(pairs: Pairs, language: str) -> list[str]:
    """The name of each drawing in a language, or in English where it has none."""
    found = [row["names"] for row in pairs.meta]
    return [str(each.get(language, each["en"])) for each in found if isinstance(each, dict)]


def taught(lab: Lab, *, objective: Any, dim: int, languages: int = 1, translations: bool = False) -> Clip:
    """A tiny CLIP, in eval mode.

    Args:
        lab: seed of the weights and the batches, and budget.
        objective: its name or settings as in a recipe; it is also that of the translations, around ``info_nce``.
        dim: numbers of an embedding.
        languages: of the names that images come with, 1 or 2; of two, each visit draws one.
        translations: whether each step also has the pairs of a name and its translation.
    """
    pairs = emoji(lab, split="train")
    model = create("tiny", seed=lab.seed, dim=dim, image_size=SIDE, context=CONTEXT)
    said = [name for language in LANGUAGES for name in names(pairs, language)]
    tokens = model.tokenizer(said).unflatten(0, (len(LANGUAGES), -1))
    unseen = [name for language in LANGUAGES for name in names(emoji(lab, split="test"), language)]
    model.prune_vocabulary_(torch.cat([tokens.flatten(), model.tokenizer(unseen).flatten()]))
    steps, settings = lab.steps(STEPS), {"name": objective} if isinstance(objective, str) else dict(objective)
    views: dict[str, Any] = {"image": {}, "text": {}}
    terms: list[Any] = ["objective"]
    if translations:
        views["other_text"] = {}
        inner = {"of": {"name": "info_nce", "tau": TAU}}
        terms.append({**settings, **inner, "image": "text", "text": "other_text", "as": "translations"})
    step = ComposedStep(
        build(settings, OBJECTIVES, where="two languages"), steps=steps, seed=lab.seed, views=views, terms=terms
    )

    def batches() -> Iterator[Batch]:
        size = min(BATCH, len(pairs))
        which = lab.generator("languages")
        for rows in draws(len(pairs), size=size, generator=lab.generator("batches")):
            spoken = torch.randint(languages, (size,), generator=which)
            yield Batch(pairs.pixels[rows], tokens[spoken, rows], {"other_text": tokens[1 - spoken, rows]})

    fit_batches(model, step, batches(), steps=steps, warmup=WARMUP, learning_rate=RATE)
    model.restore_vocabulary_()
    return model


def embedded(model: DualEncoder, pairs: Pairs) -> EmbeddedNames:
    """All rows of a split."""
    image, text = unit_pairs(model, pairs.pixels, names(pairs, "en"))
    return EmbeddedNames(image, text, unit_texts(model, names(pairs, "de")))
