"""Images that are too like those of an evaluation set, by their features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError

THRESHOLD = 0.604169
"""Of the copy-detection model isc-ft-v107, from DataComp (arXiv 2304.14108); another model needs another."""
_CELLS = 1 << 22


@dataclass(frozen=True, slots=True)
class Decontaminated:
    """What is left of a pool.

    Attributes:
        keep: (n,) whether an image's score is at most the threshold.
        score: (n,) greatest cosine with any image of the evaluation sets.
        nearest: (n,) row of that image; the first of equals.
    """

    keep: Bool[Tensor, " n"]
    score: Float[Tensor, " n"]
    nearest: Int[Tensor, " n"]


def decontaminate(
    features: Float[Tensor, "n d"], *, eval_features: Float[Tensor, "m d"], threshold: float = THRESHOLD
) -> Decontaminated:
    """Find the images that an evaluation set holds too, or nearly.

    Source: arXiv 2311.04711, section 3.3: kept where the score is at most the threshold.

    Args:
        features: of the pool's images, of any length above 0.
        eval_features: of all images of the evaluation sets, by the same model.
        threshold: greatest cosine that is kept, in [-1, 1].
    """
    if features.ndim != 2 or eval_features.ndim != 2 or features.shape[1] != eval_features.shape[1]:
        raise InputError(
            f"expected features (n, d) and (m, d), got {tuple(features.shape)} and {tuple(eval_features.shape)}"
        )
    if not len(eval_features):
        raise InputError("eval_features: expected at least one row, got none")
    if not -1 <= threshold <= 1:
        raise InputError(f"threshold: expected a cosine in [-1, 1], got {threshold!r}")
    with torch.no_grad():
        own, other = _unit(features, "features"), _unit(eval_features, "eval_features")
        rows = max(1, _CELLS // len(other))
        found = [(part @ other.T).max(dim=1) for part in own.split(rows)]
        # A row's cosine with itself may round to a little above 1.
        score = torch.cat([each.values for each in found]).clamp(-1, 1) if found else own.new_empty(0)
        nearest = torch.cat([each.indices for each in found]) if found else own.new_empty(0, dtype=torch.int64)
    return Decontaminated(score <= threshold, score, nearest)


def _unit(rows: Float[Tensor, "n d"], where: str) -> Float[Tensor, "n d"]:
    rows = rows if rows.dtype == torch.float64 else rows.float()
    lengths = rows.norm(dim=1)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        row = int(torch.nonzero(~(torch.isfinite(lengths) & (lengths > 0)))[0])
        raise InputError(f"{where}: row {row} is zero or not finite")
    return F.normalize(rows, dim=1)
