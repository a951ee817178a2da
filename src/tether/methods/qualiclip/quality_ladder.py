"""Whether a quality score falls as photos get worse: photos degraded in known steps, and a rank correlation of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Whole, checked
from tether.methods.qualiclip import LEVELS, degrade

Photos = Sequence[UInt8[Tensor, "3 h w"]]
SIZED_FOR = 224
"""Shorter side of the photos that the tables of degradations are meant for."""


@checked
def level_order(
    score: Callable[[Photos], Float[Tensor, " n"]],
    photos: Photos,
    *,
    kinds: Sequence[str],
    sized_for: Count | None = SIZED_FOR,
    seed: Whole = 0,
) -> Float[np.ndarray, "n levels"]:
    """Scores of each photo degraded in one way, at levels 1 to 5.

    Args:
        score: from photos to a number for each.
        photos: uint8, in their own pixels.
        kinds: the way of each photo, names in ``DEGRADATIONS``.
        sized_for: see ``degrade``.
        seed: of what is drawn; the same for all levels of a photo.

    Raises:
        InputError: no photo, or not one kind for each.
    """
    if not len(photos) or len(kinds) != len(photos):
        raise InputError(f"kinds: expected one for each of some photos, got {len(kinds)} for {len(photos)} photos")
    found = []
    for row, (photo, kind) in enumerate(zip(photos, kinds, strict=True)):
        key = hash_int(str(row), seed=seed, salt="ladder") >> 1
        worse = []
        for level in range(1, LEVELS + 1):
            generator = torch.Generator().manual_seed(key)
            image = degrade(photo / 255, kind, level, generator, sized_for=sized_for)
            worse.append((255 * image).round().to(torch.uint8))
        found.append(score(worse).double().cpu().numpy())
    return np.stack(found)


def ladder_correlations(scores: Float[np.ndarray, "n levels"]) -> Float[np.ndarray, " n"]:
    """Spearman's correlation of score and level for each photo: -1 where each level scores lower, 0 for equal scores.

    Example:
        >>> import numpy as np
        >>> from tether.methods.qualiclip.quality_ladder import ladder_correlations
        >>> ladder_correlations(np.array([[0.9, 0.7, 0.6, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5, 0.5]])).tolist()
        [-1.0, 0.0]
    """
    from scipy.stats import rankdata

    if scores.ndim != 2 or scores.shape[1] < 2 or not np.isfinite(scores).all():
        raise InputError(f"scores: expected finite (n, levels) numbers, two levels or more, got {scores.shape}")
    ranks = rankdata(scores, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    level = np.arange(scores.shape[1]) - (scores.shape[1] - 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=1) * (level**2).sum())
    return np.where(spread > 0, ranks @ level / np.where(spread > 0, spread, 1), 0.0)
