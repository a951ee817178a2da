"""Pairs whose caption seems to belong to another image, and what fraction of all pairs that would be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tether.core.finding import Curve, Finding, Gallery, Item
from tether.core.ranges import Inner, checked
from tether.evaluate.groups import wilson
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import Figure, exact, shown, surely_above
from tether.evaluate.inspect.pairing import Pairing, beaten

LEAST_PAIRS = 100
FIT = 0.9
"""Median fraction of wrong answers that a pair must beat, for the model to be a judge of pairs."""
ALARM = 0.01
STEADY = 0.4
"""Least ratio of the estimates at a quarter and at half; a weak model's own tail thins out faster."""
_DRAWN = 4000
_SHOWN = 12
_BINS = 40


@checked
@dataclass(frozen=True, kw_only=True)
class Mismatched:
    """Estimates how many captions were exchanged.

    A pair is scored by the larger of two shares: captions its caption beats for the image, and images its image
    beats for the caption. A true pair beats nearly all; an exchanged one is like a random combination. How often random
    combinations score low is counted on random combinations, so what fraction of the pairs are like them follows.

    Args:
        alarm: fraction of the pairs above which it is one.
    """

    title = "Captions that seem to belong to another image"
    alarm: Inner = ALARM

    def __call__(self, subject: Subject) -> Finding:
        """The estimated share, and the pairs it is most likely made of."""
        subject.need_pairs(LEAST_PAIRS)
        pairing = subject.pairing
        own = torch.maximum(pairing.beats_texts, pairing.beats_images)
        random = _random(subject, pairing)
        estimates = {at: _estimate(own, random, at=at) for at in (0.5, 0.25)}
        estimate = estimates[0.5]
        judge = float(own.median())
        steady = estimates[0.25].value >= STEADY * estimate.value
        suspects = torch.argsort(own, stable=True)[:_SHOWN]
        figures = (
            estimate,
            exact("the same from the lowest quarter", estimates[0.25].value, unit="share"),
            exact("median share of wrong answers that a pair beats", judge, unit="share"),
            exact("pairs", len(own), unit="count"),
        )
        if judge < FIT:
            level = "unknown"
            sentence = (
                f"The model is no judge of these pairs (a typical pair beats {100 * judge:.0f} % of the others), "
                "so exchanged captions cannot be found with it."
            )
        elif surely_above(estimate, self.alarm) and steady:
            level = "alarm"
            sentence = (
                f"About {shown(estimate)} of the captions fit their image no better than a caption drawn at random: "
                "these pairs look exchanged."
            )
        else:
            level = "good"
            sentence = "Hardly a caption fits its image as badly as a random one would: no sign of exchanged pairs."
        items = tuple(_suspect(subject, pairing, int(at), float(own[at])) for at in suspects)
        counts = torch.histc(own.float(), bins=_BINS, min=0, max=1)
        return Finding(
            sentence,
            level,
            figures,
            (
                Gallery("Least fitting pairs first", items),
                Curve(
                    "Pairs by the share of wrong answers they beat (0 to 100 %)", tuple(counts.tolist()), "share beaten"
                ),
            ),
            "A low score is also what a caption gets that is vague, in another language, or about something the model "
            "never saw; look before you delete. A model that learnt the wrong pairs by heart no longer shows them.",
            "tether curate --help; then train on what is left",
        )


def _random(subject: Subject, pairing: Pairing) -> Tensor:
    """Scores of random combinations that are no pairs."""
    chance = subject.generator("mismatched")
    rows = torch.randint(len(subject.image), (_DRAWN,), generator=chance)
    # Captions as often as they stand in the pairs, so that a frequent one is drawn as often as an exchange would.
    groups = pairing.group[torch.randint(len(pairing.group), (_DRAWN,), generator=chance)]
    true = set(zip(pairing.image.tolist(), pairing.group.tolist(), strict=True))
    wrong = torch.tensor([pair not in true for pair in zip(rows.tolist(), groups.tolist(), strict=True)])
    return torch.maximum(*beaten(pairing, subject.points, rows=rows[wrong], groups=groups[wrong]))


def _estimate(own: Tensor, random: Tensor, *, at: float) -> Figure:
    """Fraction of pairs like random ones, from how many of both score below ``at``."""
    base = float((random < at).double().mean())
    if base == 0:
        return Figure("estimated share of exchanged captions", 0.0, 0.0, 1.0, "share")
    found = wilson(int((own < at).sum()), n=len(own))
    low, value, high = (min(1.0, end / base) for end in (found.low, found.rate, found.high))
    return Figure("estimated share of exchanged captions", value, low, high, "share")


def _suspect(subject: Subject, pairing: Pairing, at: int, score: float) -> Item:
    row, group = int(pairing.image[at]), int(pairing.group[at])
    best = int(pairing.geometry.similarity(subject.points[row : row + 1], pairing.points).argmax())
    note = f"beats {100 * score:.0f} %; the model would say “{pairing.texts[best]}”"
    return Item(row, pairing.texts[group], note)
