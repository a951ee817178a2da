"""Held-out pairs that several models are measured on; what resting towers make of them is computed once."""

from __future__ import annotations

from tether.core.protocols import DualEncoder, Source
from tether.evaluate.embeddings import Embedded, embed_source
from tether.train.locked_towers import kept_where_resting


class HeldOut:
    """A source of pairs, embedded by any model; of towers that rest, the rows are kept in the feature cache.

    Attributes:
        source: of the pairs.
    """

    def __init__(self, source: Source, *, limit: int | None = None) -> None:
        """Args: source: of the pairs. limit: rows looked at, from the first."""
        self.source, self._limit = source, limit

    def embedded(self, model: DualEncoder, *, most: int | None = None) -> Embedded:
        """What a model makes of the pairs.

        Args:
            model: any model that ``tether.load`` gives.
            most: rows wanted, from the first; None for all.

        Raises:
            InputError: not one row with an image that can be read.
        """
        limit = min((each for each in (self._limit, most) if each is not None), default=None)
        return embed_source(kept_where_resting(model), self.source, limit=limit)
