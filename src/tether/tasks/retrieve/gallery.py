"""Search results as one HTML file that needs nothing else: images inside, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.core.types import Row
from tether.tasks.retrieve.search import Hit
from tether.tasks.retrieve.vectors import make_thumbnail

SIDE = 192  # pixels of the longest side of an image in the page
MOST_FIELDS = 12  # metadata shown of one image
MOST_LETTERS = 300  # of one value
COSINES = "Scores are cosine similarities: they order the images of one query, and are not probabilities"


def gallery(
    hits_by_query: Mapping[str, Sequence[Hit]],
    path: Path,
    *,
    title: str = "Search results",
    note: str = "",
    remarks: Sequence[str] = (),
    nothing: Mapping[str, str] | None = None,
    first: Mapping[str, int] | None = None,
    scores: str = COSINES,
    span: tuple[float, float] | None = None,
) -> Path:
    """Write a page with one row of images for each query.

    Args:
        hits_by_query: the hits of each query, best first, e.g. from ``Searcher.hits``. Hits whose ``right`` is True
            are ringed in green.
        path: the HTML file; written atomically.
        title: heading of the page.
        note: a line beside it, e.g. which model and how many images.
        remarks: lines below it.
        nothing: why a query has no hit.
        first: place of a query's first hit, where it is not 1.
        scores: what they are, said at the foot; empty where images have none, and then none is shown.
        span: scores of the shortest bar and of the longest one, on all rows alike; None compares the images of a row,
            and tells its best score.

    Returns:
        The path.
    """
    from jinja2 import Environment, PackageLoader

    if not hits_by_query:
        raise InputError("gallery: expected at least one query")
    pages = Environment(loader=PackageLoader("tether.tasks.retrieve", "."), autoescape=True)
    why, starts = nothing or {}, first or {}
    queries = [
        _query(text, hits, span=span, scored=bool(scores)) | {"nothing": why.get(text), "first": starts.get(text, 1)}
        for text, hits in hits_by_query.items()
    ]
    given = {
        "title": title,
        "note": note,
        "remarks": remarks,
        "queries": queries,
        "scores": scores,
        "alike": span is not None,
    }
    page = pages.get_template("gallery.html.j2").render(given, alike=span is not None)
    write_text(path, page)
    return path


def _query(text: str, hits: Sequence[Hit], *, span: tuple[float, float] | None, scored: bool) -> dict[str, Any]:
    scores = [hit.score for hit in hits]
    low, high = span or ((min(scores), max(scores)) if scores else (0.0, 1.0))
    note = _note(hits, ends=span is not None) if scored else ""
    return {"text": text, "note": note, "hits": [_shown(hit, low=low, high=high, scored=scored) for hit in hits]}


def _note(hits: Sequence[Hit], *, ends: bool) -> str:
    """How well it went, where that is known, or what the scores are."""
    if not any(hit.right is not None for hit in hits):
        if ends and hits:
            return f"scores {min(hit.score for hit in hits):.3f} to {max(hit.score for hit in hits):.3f}"
        return f"best score {hits[0].score:.3f}" if hits else ""
    places = [place for place, hit in enumerate(hits, start=1) if hit.right]
    if len(places) > 1:
        return f"{len(places)} of {len(hits)} right, the first at place {places[0]}"
    return f"right at place {places[0]}" if places else f"not among the first {len(hits)}"


def _shown(hit: Hit, *, low: float, high: float, scored: bool) -> dict[str, Any]:
    try:
        image = make_thumbnail(Row(hit.key, hit.image), side=SIDE)
    except InputError:  # a store may hold anything; the other hits are shown all the same
        image = None
    more = [("score", f"{hit.score:.4f}")] if scored else []
    more += [("key", hit.key), *(("text", text) for text in hit.texts[:MOST_FIELDS])]
    fields = [(name, value) for name, value in hit.meta.items() if value not in (None, "", [])]
    more += [(name, str(value)[:MOST_LETTERS]) for name, value in fields[:MOST_FIELDS]]
    height = 1.0 if high <= low else min(1.0, max(0.0, (hit.score - low) / (high - low)))
    return {
        "key": hit.key,
        "image": None if image is None else "data:image/jpeg;base64," + base64.b64encode(image).decode(),
        "score": f"{hit.score:.3f}",
        "width": round(15 + 85 * height),  # the least similar still shows a bar
        "caption": hit.texts[0] if hit.texts else "",
        "right": hit.right,
        "more": json.dumps(more, ensure_ascii=False),
    }
