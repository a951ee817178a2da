"""What regions aims at: regions named by their mask."""

from __future__ import annotations

import torch

from tether.data.regions import RegionColumns
from tether.evaluate.adaptation.figures import (
    Compared,
    hits_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.methods.alpha_clip.region_questions import ask_regions


class RegionMeasure:
    """Regions named among all phrases, by their alpha against no mask and against their crops, and pairs told apart."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        asked = ask_regions(seen.source, before=seen.before, after=seen.after, columns=RegionColumns(**seen.columns))
        if asked is None:
            return []
        found = [
            hits_figure(
                "region named, without a mask against with it", asked.unmasked, asked.masked, chance=asked.chance
            ),
            hits_figure(
                "region named, by its crop against by its mask", asked.cropped, asked.masked, chance=asked.chance
            ),
        ]
        if len(asked.follows):
            never = torch.zeros_like(asked.follows)  # one answer for an image, whichever region is meant
            found.append(hits_figure("both of two regions told apart by their masks", never, asked.follows))
        return found
