"""What masked_crops aims at: regions named by what is left of the image."""

from __future__ import annotations

from tether.core.errors import InputError
from tether.data.regions import RegionColumns
from tether.evaluate.adaptation.figures import (
    Compared,
    hits_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.methods.ovseg.masked_questions import masked_hits
from tether.methods.ovseg.masked_regions import masked_regions

MASKED = 500
"""Images whose regions are cut out, at most."""


class MaskedCropMeasure:
    """Regions named among all phrases by what is left of the image when the rest is blank."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        spec = seen.before.image_spec
        try:
            found = masked_regions(
                seen.source,
                columns=RegionColumns(**seen.columns),
                size=spec.size,
                fill=tuple(255 * value for value in spec.mean),
                limit=MASKED,
            )
        except InputError:
            return []
        if len(found.phrases) < 2:
            return []
        hits = [masked_hits(model, found) for model in (seen.before, seen.after)]
        return [hits_figure("region named by its masked crop", hits[0], hits[1], chance=1 / len(found.phrases))]
