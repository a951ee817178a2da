"""What typo_proof aims at: texts with a typo."""

from __future__ import annotations

import torch

from tether.evaluate.adaptation.figures import (
    Compared,
    hits_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.methods.leaf.robustness import typo_robustness
from tether.models.embed import encode_texts

ATTACKED = 100
"""Texts that are attacked, at most."""


class TypoMeasure:
    """Texts under attack that still lie nearest to their own clean row by the base, among those of the other texts."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
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
