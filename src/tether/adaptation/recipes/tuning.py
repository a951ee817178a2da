"""What a recipe gives, and the tuning that it describes, which ``training.tuning.play`` plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tether.adaptation.heads.head import Head
from tether.core.protocols import DualEncoder
from tether.training import tuning
from tether.training.tuning import play

__all__ = ["Outcome", "Played", "Tuning", "play"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a recipe gives: a model, a head, or a head on a model of its own.

    Attributes:
        model: the adapted encoder, or None where the base stays as it is.
        head: a classifier, or None.
        chosen: settings that were not given and were chosen by the data, by their names.
        privacy: ``epsilon`` and ``delta`` of each image, where learning was private, and what else was released.
    """

    model: DualEncoder | None = None
    head: Head | None = None
    chosen: Mapping[str, float] = field(default_factory=dict)
    privacy: Mapping[str, float] = field(default_factory=dict)


Tuning: TypeAlias = tuning.Tuning[Outcome]
"""Its ``finish`` gives what the recipe gives: the model, a head, or both; None gives the model."""
Played: TypeAlias = tuning.Played[Outcome]
