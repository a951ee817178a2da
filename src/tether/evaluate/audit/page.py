"""The page to go through what is suspect: one at a time, by keyboard, with the decisions saved as a CSV file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tether.data.review import Suspect
from tether.evaluate.html import templates
from tether.evaluate.html.sprite import sprite

TITLES = {
    "label": "Labels that are likely wrong",
    "caption": "Captions that likely belong to another image",
    "copy": "Images that are there twice",
    "outlier": "Images unlike all others",
}


def render(
    told: Mapping[str, Any],
    suspects: Sequence[Suspect],
    *,
    images: Mapping[str, str],
    thumbnails: Callable[[Sequence[int]], Tensor],
) -> str:
    """The page as one string that loads nothing from elsewhere.

    Args:
        told: what ``audit.json`` holds.
        suspects: in the order of the page.
        images: data URI by key.
        thumbnails: small images by row.
    """
    rows = sorted({row for one in suspects for row in (one.row, *one.near)})
    sheet = sprite(thumbnails(rows).numpy()) if rows else None
    name = hashlib.blake2b(repr((told["source"], told["version"], told["digest"])).encode(), digest_size=8).hexdigest()
    return templates.render(
        "audit.html.j2",
        package="tether.evaluate.audit",
        told=told,
        suspects=suspects,
        images=images,
        sprite=sheet,
        places={row: place for place, row in enumerate(rows)},
        titles=TITLES,
        kinds=[kind for kind in TITLES if any(one.kind == kind for one in suspects)],
        counts={kind: sum(one.kind == kind for one in suspects) for kind in TITLES},
        name=name,
    )
