"""What binding aims at: captions and their twins."""

from __future__ import annotations

import torch.nn.functional as F

from tether.evaluate.adaptation.figures import (
    Compared,
    hits_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.models.embed import encode_texts


class TwinMeasure:
    """Images nearer, by cosine, to their first caption than to the text of the column, where the two differ."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
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
