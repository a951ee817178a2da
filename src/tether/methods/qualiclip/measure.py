"""What quality aims at: the order of levels of degradation."""

from __future__ import annotations

from dataclasses import replace

from tether.adaptation.heads.quality import QualityHead
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered
from tether.evaluate.adaptation.figures import (
    Compared,
    means_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.methods.qualiclip import LADDERS
from tether.methods.qualiclip.quality_ladder import SIZED_FOR, ladder_correlations, level_order
from tether.tasks.quality import QualityScorer

PHOTOS = 60
"""Images that are degraded, at most."""


class QualityMeasure:
    """Spearman's correlation of score and level, of images degraded step by step in the ways that were trained."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
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
