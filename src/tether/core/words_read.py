"""Words that were read from images, with how sure the reader was of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Texts:
    """What stands in each of n images.

    Attributes:
        words: of the images, in their order; an empty one where nothing was read.
        confidence: (n,) float64 in 0..1, the probability of all characters and of the end.

    Raises:
        InputError: numbers that do not fit the words or lie outside 0..1.

    Example:
        >>> import numpy as np
        >>> from tether.core.words_read import Texts
        >>> Texts(("exit", "fire"), np.array([0.9, 0.4])).surer_than(0.5)
        ['exit', None]
    """

    words: tuple[str, ...]
    confidence: Float[np.ndarray, " n"]

    def __post_init__(self) -> None:
        """Refuse numbers that say nothing."""
        if self.confidence.shape != (len(self.words),):
            raise InputError(f"confidence: expected one for each of {len(self.words)}, got {self.confidence.shape}")
        if not ((self.confidence >= 0) & (self.confidence <= 1)).all():
            raise InputError("confidence: expected numbers in 0..1")

    def __len__(self) -> int:
        """How many images."""
        return len(self.words)

    def surer_than(self, least: float) -> list[str | None]:
        """The words, None for those of a lower confidence."""
        return [word if sure >= least else None for word, sure in zip(self.words, self.confidence, strict=True)]

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """What was read in parts, at least one of them."""
        words = tuple(word for part in parts for word in part.words)
        return cls(words, np.concatenate([part.confidence for part in parts]))
