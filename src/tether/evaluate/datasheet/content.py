"""Everything that a datasheet says, gathered before it is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tether.evaluate.datasheet.concepts import Concepts
from tether.evaluate.datasheet.dropped import Example, Flagged
from tether.evaluate.datasheet.languages import Spoken
from tether.evaluate.datasheet.sample import Captions
from tether.evaluate.datasheet.thumbnails import Display


@dataclass(frozen=True, slots=True)
class Datasheet:
    """Everything that a datasheet says.

    Attributes:
        name: of the folder.
        manifest: what the curation says of itself.
        recipe: the steps as they were given, or as the manifest lists them.
        entries: number of metadata entries that concepts are counted by; 0 for words.
        before: captions of the pool.
        after: captions of what was kept.
        languages: None where the detector is missing.
        concepts: frequent and gained ones, and both curves.
        examples: dropped pairs by step.
        flagged: what was flagged, by step.
        images: how thumbnails are shown.
        most: rows of each side whose captions were looked at, at most.
        digests: (step, setting, value) of every model and list that a step was built on.
    """

    name: str
    manifest: dict[str, Any]
    recipe: str
    entries: int
    before: Captions
    after: Captions
    languages: list[Spoken] | None
    concepts: Concepts
    examples: dict[str, list[Example]]
    flagged: list[Flagged]
    images: Display
    most: int
    digests: list[tuple[str, str, str]]

    @property
    def sampled(self) -> str:
        """How the shares of captions were found, as a sentence."""
        if self.before.complete and self.after.complete:
            return "Counted over all captions."
        return f"Estimated on the captions of {self.most:,} rows of each side, spread over the files."
