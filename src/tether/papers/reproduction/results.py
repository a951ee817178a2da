"""The papers as rows of a table: what the command line, the README and the site all show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tether.core.card import Card
from tether.papers.cards import CARDS
from tether.papers.reproduction.reproduce import Status, status, stored


@dataclass(frozen=True, slots=True)
class PaperStatus:
    """One paper and how its check stands.

    Attributes:
        card: the paper.
        verdict: of the stored result; ``stale`` when the source has changed since, ``not run`` without one.
        result: the stored result, or None.
    """

    card: Card
    verdict: Status
    result: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``tether papers --json``."""
        card, result = self.card, self.result or {}
        return {
            "slug": card.slug,
            "title": card.title,
            "year": card.year,
            "arxiv": card.arxiv,
            "room": card.room,
            "parts": list(card.parts),
            "needs": list(card.needs),
            "gives": card.gives,
            "claim": card.claim.says,
            "metric": card.claim.metric,
            "verdict": self.verdict,
            "mean": result.get("mean"),
            "lower": result.get("lower"),
        }


def rows() -> list[PaperStatus]:
    """Every paper, by slug."""
    found = []
    for slug, card in CARDS.items():
        result = stored(slug)
        found.append(PaperStatus(card, status(card, result), result))
    return found
