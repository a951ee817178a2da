"""What close_the_gap aims at: how far images and texts lie apart."""

from __future__ import annotations

import torch.nn.functional as F

from tether.evaluate.adaptation.figures import (
    Compared,
    plain_figure,
)
from tether.evaluate.adaptation.measures import Pictured
from tether.evaluate.geometry import modality_gap


class ModalityGap:
    """Distance of the centres of images and texts, of unit embeddings."""

    def __call__(self, seen: Pictured) -> list[Compared]:
        """See ``Measure``."""
        found = [
            float(modality_gap(F.normalize(one.image, dim=1), F.normalize(one.text, dim=1)))
            for one in (seen.seen_before, seen.seen_after)
        ]
        about = "distance between the centre of the images and that of the texts, of embeddings of length 1"
        rows = len(seen.seen_before.image)
        return [plain_figure("modality gap", found[0], found[1], n=rows, better="lower", about=about)]
