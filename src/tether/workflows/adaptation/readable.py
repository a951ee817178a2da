"""Images that can be decoded, told from those that cannot before anything is learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.bad_rows import BadRows
from tether.data.labelled import DrawnParts, LabelledRows, PickedRows
from tether.data.sources.split import digest_of
from tether.models.composed.cached import CachedEncoder

_DIGEST = "digest"


def drawn_readable(
    rows: LabelledRows,
    draw: Callable[[LabelledRows], DrawnParts],
    *,
    reader: CachedEncoder,
    workers: int = 0,
    strict: bool = False,
) -> tuple[LabelledRows, DrawnParts]:
    """Draw parts, decode what is drawn, and draw anew without what cannot be read, until all can.

    Args:
        rows: to draw from.
        draw: gives the parts.
        reader: of the model; images whose rows it keeps are not decoded.
        workers: threads that decode.
        strict: stop at the first image that cannot be read.

    Returns:
        The rows that are left, and the parts among them.

    Raises:
        InputError: a class has no image that can be read, most of them cannot, or what ``draw`` refuses.
    """
    bad = BadRows(rows.source.name, strict=strict)
    good: set[str] = set()
    while True:
        parts = draw(rows)
        drawn = {rows.digests[row]: rows.places[row] for row in (*parts.train, *parts.validation, *parts.test)}
        new = {place: digest for digest, place in drawn.items() if digest not in good}
        if not new:
            return rows, parts
        picked = {place: ((), {_DIGEST: digest}) for place, digest in new.items()}
        part = PickedRows(rows.source, picked, name=rows.source.name)
        read = {cast(str, row.meta[_DIGEST]) for row in reader.good_rows(part, on_bad=bad, workers=workers)}
        good |= read
        if broken := set(new.values()) - read:
            rows = rows.without(broken)


def digests_read(
    source: Source, *, reader: CachedEncoder, bad: BadRows, workers: int = 0, captioned: bool = False
) -> set[str]:
    """The digests of a source's different images that can be read.

    Args:
        source: of images.
        reader: of the model; images whose rows it keeps are not decoded.
        bad: the account of rows that cannot be read.
        workers: threads that decode.
        captioned: leave out those without a caption.

    Raises:
        InputError: there is none.
    """
    found = {
        digest_of(row.image)
        for row in reader.good_rows(source, on_bad=bad, workers=workers)
        if row.image is not None and (not captioned or any(text.strip() for text in row.texts))
    }
    if not found:
        why = bad.nothing_good() if bad.latest else f"no image{' with a caption' * captioned}"
        raise InputError(f"{source.name}: {why}")
    return found
