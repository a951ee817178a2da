"""Boxes for the phrases of a caption, by any open-vocabulary detector: regions to learn from where nobody drew any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Share, checked
from tether.data.captions.concepts import noun_phrases
from tether.data.captions.pos_tags import Tagger
from tether.data.regions import RowRegions

Detect = Callable[[Tensor, Sequence[str]], Sequence[tuple[Sequence[float], float, int]]]
"""Pixels (3, h, w) uint8 and phrases to finds: x0, y0, x1, y1 in shares of the image, a score of 0 to 1, and the number
of the phrase."""


@checked
def phrase_regions(
    pixels: UInt8[Tensor, "3 h w"],
    caption: str,
    *,
    detect: Detect,
    threshold: Share = 0.1,
    least_area: Share = 0.0,
    tagger: Tagger | None = None,
) -> RowRegions:
    """Regions of one image with the phrases of its caption, as CLOC's pipeline makes them (arXiv 2410.02746).

    The paper takes long captions of a captioning model and OWLv2; neither comes along. What this gives can stand in the
    columns that ``data.regions.RegionColumns`` reads.

    Args:
        pixels: of the image.
        caption: the longer the better.
        detect: see ``Detect``.
        threshold: of the score; finds below it are left out.
        least_area: of a box, as a share of the image.
        tagger: see ``concept_pool``.

    Raises:
        InputError: a box that is not inside the image or has no area, or the number of no phrase.

    Example:
        >>> import torch
        >>> from tether.methods.cloc.phrase_regions import phrase_regions
        >>> def detect(pixels, phrases):
        ...     return [((0.1, 0.1, 0.5, 0.6), 0.8, phrases.index("red star")), ((0.0, 0.0, 0.9, 0.9), 0.05, 0)]
        >>> found = phrase_regions(torch.zeros(3, 8, 8, dtype=torch.uint8), "a dog and a red star", detect=detect)
        >>> found.boxes.tolist(), found.phrases
        ([[0.1, 0.1, 0.5, 0.6]], ['red star'])
    """
    phrases = list(dict.fromkeys(noun_phrases(caption, tagger=tagger)))
    boxes: list[list[float]] = []
    said: list[str] = []
    for box, score, number in detect(pixels, phrases) if phrases else ():
        x0, y0, x1, y1 = (float(end) for end in box)
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise InputError(
                f"detect: expected 0 <= x0 < x1 <= 1 and so for y, in shares of the image, got {list(box)}"
            )
        if not 0 <= number < len(phrases):
            raise InputError(f"detect: expected the number of one of {len(phrases)} phrases, got {number}")
        if score >= threshold and (x1 - x0) * (y1 - y0) >= least_area:
            boxes.append([x0, y0, x1, y1])
            said.append(phrases[number])
    return RowRegions(np.array(boxes, dtype=np.float64).reshape(-1, 4), said)
