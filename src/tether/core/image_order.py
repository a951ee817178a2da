"""Images in an order, with the scores that made it: what a method that orders images answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """Scores of images, and the order they make: the highest first, ties in the order of the source.

    Attributes:
        keys: of the n images, in the order of their source.
        scores: (n,) float64, the higher the more.

    Raises:
        InputError: fewer than two images, or scores that do not fit or are not finite.

    Example:
        >>> import numpy as np
        >>> from tether.core.image_order import ImageOrder
        >>> ImageOrder(("a", "b", "c"), np.array([0.1, 0.9, 0.1])).ranked()
        [('b', 0.9), ('a', 0.1), ('c', 0.1)]
    """

    keys: tuple[str, ...]
    scores: Float[np.ndarray, " n"]

    def __post_init__(self) -> None:
        """Refuse what has no order."""
        if len(self.keys) < 2:
            raise InputError(f"expected at least two images to order, got {len(self.keys)}")
        if self.scores.shape != (len(self.keys),):
            raise InputError(f"expected a score for each of {len(self.keys)} images, got {self.scores.shape}")
        if bad := np.flatnonzero(~np.isfinite(self.scores)).tolist():
            raise InputError(f"image {self.keys[bad[0]]!r}: its score is not finite")

    @property
    def order(self) -> Int[np.ndarray, " n"]:
        """Numbers of the images, the highest first."""
        return np.argsort(-self.scores, kind="stable")

    def ranked(self) -> list[tuple[str, float]]:
        """Keys with their scores, the highest first."""
        return [(self.keys[row], float(self.scores[row])) for row in self.order]
