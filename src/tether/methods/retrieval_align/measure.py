"""What image_search aims at: the other images of a class."""

from __future__ import annotations

from tether.evaluate.adaptation.figures import (
    Compared,
    means_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.methods.retrieval_align.image_retrieval import image_retrieval


class ImageSearchMeasure:
    """Mean average precision of finding the other images of a class; nothing where no class has two images."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        one = seen.seen_before
        if not one.labels or len(one.classes) == len(one.labels):
            return []
        columns = []
        for rows in (seen.seen_before, seen.seen_after):
            geometry = rows.geometry
            found = image_retrieval(geometry.points(rows.image), one.label_numbers, similarity=geometry.similarity)
            columns.append(found.average_precision.cpu().numpy())
        about = "how far up the other images of its class stand in the list that an image is answered with; 1 is best"
        return [means_figure("image to image, mean average precision", columns[0], columns[1], about=about)]
