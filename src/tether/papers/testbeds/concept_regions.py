"""Boxes that nobody labelled learn what a frozen copy says of them over concepts out of the captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tether.data.captions.concepts import concept_pool
from tether.papers.testbeds import masked_things

if TYPE_CHECKING:
    from tether.papers.testbeds.asked_boxes import BoxBench

PROMPT = "a {}"
RANDOM = masked_things.THINGS[1] - 1
"""Boxes besides those of the scenes: as many as there are things on the mean."""


def parts(bed: BoxBench, *, distill: float = 1.0, contrast: float = 1.0, sees: str = "crops") -> dict[str, Any]:
    """Views, terms and teacher of a composed step.

    Args:
        bed: of the seed.
        distill: weight of the teacher's whole distribution.
        contrast: weight of its likeliest concept.
        sees: what the teacher looks at: ``crops`` of the boxes, or the ``patches`` inside, as the student does.
    """
    pool = concept_pool(bed.train.texts, min_count=1)
    views: dict[str, Any] = {
        "image": {"want": "dense"},
        "text": {},
        "concepts_text": {"texts": pool, "prompts": [PROMPT], "encoder": "teacher"},
    }
    term: dict[str, Any] = {
        "name": "concepts",
        "teacher": None,
        "random": RANDOM,
        "temperature": None,
        "weights": [distill, contrast],
    }
    if sees == "patches":
        views["teacher_image"] = {"of": "image", "encoder": "teacher"}
        term["teacher"] = "teacher_image"
    return {"views": views, "terms": ["objective", term], "teacher": "start"}
