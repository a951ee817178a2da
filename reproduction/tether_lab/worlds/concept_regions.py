"""Boxes that nobody labelled learn what a frozen copy says of them, cut out, over concepts out of the captions."""

from __future__ import annotations

from typing import Any

from tether.data.captions.concepts import concept_pool
from tether_lab.worlds import masked_things
from tether_lab.worlds.asked_boxes import BoxBench

PROMPT = "a {}"
RANDOM = masked_things.THINGS[1] - 1
"""Boxes besides those of the scenes: as many as there are things on the mean."""


def parts(bed: BoxBench) -> dict[str, Any]:
    """Views, terms and teacher of a composed step."""
    pool = concept_pool(bed.train.texts, min_count=1)
    return {
        "views": {
            "image": {"want": "dense"},
            "text": {},
            "concepts_text": {"texts": pool, "prompts": [PROMPT], "encoder": "teacher"},
        },
        "terms": ["objective", {"name": "concepts", "teacher": None, "random": RANDOM, "temperature": None}],
        "teacher": "start",
    }
