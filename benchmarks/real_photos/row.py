"""What one row of the bench is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tether_lab.lab.card import Claim, Trial

from .frozen import Photos


@dataclass(frozen=True)
class Row:
    """A second check of a paper's claim, on photographs.

    Attributes:
        slug: of the paper.
        claim: metric, direction and margin are the card's where ``differs`` says no other.
        differs: what is other than in the card's own check, in words.
        measure: one seed.
    """

    slug: str
    claim: Claim
    differs: str
    measure: Callable[[Photos, int], Trial]
