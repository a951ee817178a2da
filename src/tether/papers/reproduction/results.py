"""The papers as rows of a table: what the command line, the README and the site all show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tether.core.card import Card
from tether.papers.cards import CARDS
from tether.papers.reproduction import real_photos, source_index
from tether.papers.reproduction.reproduce import changed, machine, versions
from tether.papers.reproduction.stored_result import stored

CHANGED = "changed since measured"


@dataclass(frozen=True, slots=True)
class PaperStatus:
    """One paper and how its check stands.

    Attributes:
        card: the paper.
        result: the stored result, or None.
        changed: whether the code that decides its figures is another than when they were measured.
        photos: a second check, on real photographs, or None; see ``real_photos``.
    """

    card: Card
    result: dict[str, Any] | None
    changed: bool = False
    photos: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """Of the stored result; ``not run`` without one."""
        return self.result["verdict"] if self.result else "not run"

    @property
    def mark(self) -> str:
        """A few words beside the verdict, or none."""
        return CHANGED if self.changed else ""

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``tether papers --json``."""
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
            "changed": self.changed,
            "mean": result.get("mean"),
            "lower": result.get("lower"),
            "upper": result.get("upper"),
            "on_real_photographs": self.photos and self.photos["verdict"],
        }


def rows(slugs: Iterable[str] = CARDS) -> list[PaperStatus]:
    """Papers, by slug; all of them unless some are named."""
    sources = source_index.sources()
    photos = real_photos.stored()
    found = []
    for slug in slugs:
        card, result = CARDS[slug], stored(slug)
        differs = result is not None and changed(card, result, sources=sources)
        found.append(PaperStatus(card, result, differs, photos.get(slug)))
    sources.save()
    return found


RELATIVE, ABSOLUTE, BESIDE = 0.05, 1e-4, 5e-4
"""How far a figure may lie from the stored one, as a share of it, and for one near 0: so much, or this share of the
largest of the trial, as it may be a difference of large ones, but no more than half of itself.

Between AVX-512 with one thread and AVX2 with two, nearly all figures of smoke trials differ by less than 1e-5 of
themselves, ill-conditioned ones (ratios of eigenvalues, agreements after two steps) by 3e-3, and a share of a few
hundred images by one or two images, which was 0.026 at most.
"""
ELSEWHERE, ELSEWHERE_BESIDE = 0.5, 0.05
"""The same on another kind of machine, where a training may end elsewhere: a figure keeps its sign and, unless it is
small beside the others, its size. With kernels without vectors (``ATEN_CPU_CAPABILITY=default``) figures of ten of 119
trials left the narrow bounds on the machine that had stored them, and one of them these: cliptex's ``depth_less``."""


def made_here(result: Mapping[str, Any]) -> bool:
    """Whether a stored result is of this kind of machine: maker of the processor, torch's kernels, torch's release."""

    def kind(machine: Mapping[str, Any], versions: Mapping[str, str]) -> tuple[list[str], str, list[str]]:
        # Results from before the kernels were recorded are taken for AVX512's, which the machines that made them have.
        maker, release = machine["processor"].split()[:1], versions["torch"].split(".")[:2]
        return maker, machine.get("kernels", "AVX512"), release

    return kind(machine("cpu"), versions()) == kind(result["machine"], result["versions"])


def moved(
    before: Mapping[str, Any], today: Mapping[str, Any], *, relative: float = RELATIVE, beside: float = BESIDE
) -> list[str]:
    """The figures of two smoke trials of one paper that differ by more than the tolerance, in words.

    Args:
        before: ``baseline``, ``ours`` and ``notes`` as a result holds them, and perhaps ``trace``.
        today: the same, measured now.
        relative: share of a figure by which it may differ.
        beside: share of the largest figure of the trial by which each may differ besides.
    """

    def outside(old: Mapping[str, float], new: Mapping[str, float]) -> list[str]:
        largest = max((abs(value) for value in old.values() if math.isfinite(value)), default=0)
        found = []
        for name in old.keys() & new.keys():
            half = abs(old[name]) / 2 or math.inf  # so that no figure turns its sign; 0 has none
            near = max(ABSOLUTE, min(beside * largest, half))
            if abs(new[name] - old[name]) > relative * max(abs(old[name]), abs(new[name])) + near:
                found.append(f"{name}: was {old[name]:.6g}, is {new[name]:.6g}")
        once = old.keys() ^ new.keys()
        return found + [f"{name}: only measured {'before' if name in old else 'now'}" for name in once]

    old, new = ({"baseline": one["baseline"], "ours": one["ours"], **one["notes"]} for one in (before, today))
    found = outside(old, new)
    if "trace" in before and "trace" in today:
        found += [f"trace: {words}" for words in outside(before["trace"], today["trace"])]
    return sorted(found)
