"""The papers as rows of a table: what the command line, the README and the site all show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tether_lab.lab import real_photos
from tether_lab.lab.card import Card
from tether_lab.lab.smoke_record import has_moved, origin_of, stored_record
from tether_lab.lab.stored_result import stored
from tether_lab.papers import CARDS

MOVED = "figures moved since measured"


@dataclass(frozen=True, slots=True)
class PaperStatus:
    """One paper and how its check stands.

    Attributes:
        card: the paper.
        result: the stored result, or None.
        moved: whether its smoke trial gives other figures than when it was measured.
        same_at: the last commit whose smoke trial is on record with the same figures, or the empty string.
        photos: a second check, on real photographs, or None; see ``real_photos``.
    """

    card: Card
    result: dict[str, Any] | None
    moved: bool = False
    same_at: str = ""
    photos: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """Of the stored result; ``not run`` without one."""
        return self.result["verdict"] if self.result else "not run"

    @property
    def mark(self) -> str:
        """A few words beside the verdict, or none."""
        return MOVED if self.moved else ""

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``tether-lab list --json``."""
        card, result = self.card, self.result or {}
        return {
            "slug": card.slug,
            "title": card.title,
            "year": card.year,
            "arxiv": card.arxiv,
            "package": card.package,
            "parts": list(card.parts),
            "needs": list(card.needs),
            "gives": card.gives,
            "claim": card.claim.says,
            "metric": card.claim.metric,
            "kind": card.claim.kind,
            "baseline": card.claim.baseline,
            "equal": card.claim.equal,
            "conditions": result.get("conditions", []),
            "verdict": self.verdict,
            "moved": self.moved,
            "mean": result.get("mean"),
            "lower": result.get("lower"),
            "upper": result.get("upper"),
            "on_real_photographs": self.photos and self.photos["verdict"],
        }


def rows(slugs: Iterable[str] = CARDS) -> list[PaperStatus]:
    """Papers, by slug; all of them unless some are named."""
    record = stored_record()
    photos = real_photos.stored()
    found = []
    for slug in slugs:
        card, result = CARDS[slug], stored(slug)
        differs = result is not None and has_moved(record, result)
        same_at = origin_of(record, slug)["commit"] if record and result and not differs else ""
        found.append(PaperStatus(card, result, differs, same_at, photos.get(slug)))
    return found
