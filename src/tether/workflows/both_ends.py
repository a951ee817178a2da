"""The first and the last images of an order, to look at."""

from __future__ import annotations

from collections.abc import Sequence

from tether.core.protocols import Source
from tether.tasks.retrieve.search import Hit


def both_ends(source: Source, ranked: Sequence[tuple[str, float]], *, shown: int) -> list[Hit]:
    """The first and the last images, read once more.

    Args:
        source: of the images.
        ranked: their keys and scores, in order.
        shown: images of each end.
    """
    if not shown:
        return []
    some = ranked if len(ranked) <= 2 * shown else [*ranked[:shown], *ranked[-shown:]]
    wanted = {key for key, _ in some}
    rows = {row.key: row for block in source.blocks() for row in source.read(block) if row.key in wanted}
    return [Hit(key, score, rows[key].texts, rows[key].image) for key, score in some]
