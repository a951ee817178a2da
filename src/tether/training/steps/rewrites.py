"""Texts made of a batch's captions while it trains: their beginnings, or how they grow by true and false details."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tether.core.hash_rng import hash_int
from tether.core.protocols import Tokenizer
from tether.core.ranges import Count, Share, checked
from tether.core.registry import Registry
from tether.data.captions.first_sentence import first_sentence
from tether.data.captions.sampling import sentences
from tether.data.segments import Words, draw_triplet, split_caption
from tether.training.steps.module import joined_texts


class Rewrite(Protocol):
    """Makes texts of captions.

    Attributes:
        times: texts for each caption.
    """

    times: int

    def __call__(
        self, captions: Sequence[str], tokenizer: Tokenizer, *, step: int, rank: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Token ids (times * b, l), and further tensors for the terms, by name."""
        ...


class FirstSentences:
    """The first sentences of each caption."""

    times = 1

    @checked
    def __init__(self, *, most: Count = 1, steps: int, seed: int) -> None:
        """Args: most: sentences that are left. steps, seed: not used."""
        self.most = most

    def __call__(
        self, captions: Sequence[str], tokenizer: Tokenizer, *, step: int, rank: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Rewrite."""
        return tokenizer([" ".join(sentences(caption)[: self.most]) for caption in captions]), {}


class FirstSentence:
    """What stands before each caption's first full stop and space, as Long-CLIP's short captions (arXiv 2403.15378).

    A caption that begins with one is left whole.
    """

    times = 1

    def __init__(self, *, steps: int, seed: int) -> None:
        """Args: steps, seed: not used."""

    def __call__(
        self, captions: Sequence[str], tokenizer: Tokenizer, *, step: int, rank: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Rewrite."""
        return tokenizer([first_sentence(caption) or caption for caption in captions]), {}


class GrowingDetails:
    """Captions cut short, the same with one more detail, and with a false one, below each other (arXiv 2509.03897).

    Each caption is split where its clauses end; a random cut gives the base, the next piece of its own the true detail,
    a piece of another caption of the batch the false one. ``valid`` (b,) tells which captions have all three: those of
    one piece, and details that the tokenizer cut off, do not.
    """

    times = 3

    @checked
    def __init__(self, *, shuffled_first: Share = 0.9, steps: int, seed: int) -> None:
        """Take the settings.

        Args:
            shuffled_first: first share of the run whose false details have their words shuffled; the rest
                keeps them in order (released code).
            steps: length of the run.
            seed: of the cuts and false details, which depend on (seed, step, process).
        """
        self.kept_from, self.seed = round(steps * shuffled_first), seed

    def __call__(
        self, captions: Sequence[str], tokenizer: Tokenizer, *, step: int, rank: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Rewrite."""
        words: Words = "shuffled" if step < self.kept_from else "kept"
        rng = np.random.default_rng(hash_int(f"{step} of process {rank}", seed=self.seed, salt="specs"))
        segments = [split_caption(caption) for caption in captions]
        found = [draw_triplet(segments, row, rng=rng, words=words) for row in range(len(captions))]
        columns = [
            [
                caption if triplet is None else getattr(triplet, name)
                for caption, triplet in zip(captions, found, strict=True)
            ]
            for name in ("base", "detail", "negative")
        ]
        cut = joined_texts([tokenizer(column) for column in columns])
        short, longer, wrong = cut.chunk(3)
        differ = (short != longer).any(dim=1) & (short != wrong).any(dim=1)
        return cut, {"valid": differ & torch.tensor([triplet is not None for triplet in found])}


REWRITES: Registry[Rewrite] = Registry(
    "rewrites",
    {
        "sentences": "tether.training.steps.rewrites:FirstSentences",
        "first_sentence": "tether.training.steps.rewrites:FirstSentence",
        "growing": "tether.training.steps.rewrites:GrowingDetails",
    },
)
"""Texts made of captions, by name."""
