"""The ranking-aware adapter's loss: which image of each pair ranks higher, and how high each is (arXiv 2412.06760)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss

Component = Literal["rank", "regression", "bce"]


class OneImageWarning(UserWarning):
    """A loss of pairs was asked of one image, which has none."""


@checked
def ranking_loss(
    scores: Float[Tensor, "n 1"],
    pair_logits: Float[Tensor, "pairs 1"] | None,
    targets: Float[Tensor, " n"],
    *,
    components: Annotated[Sequence[Component], MinLen(1)] = ("rank", "regression"),
    rank_weight: NonNegative = 1.0,
    reg_weight: NonNegative = 0.2,
    bce_weight: NonNegative = 1.0,
    mask_ties: bool = False,
) -> Loss:
    """Weighted sum of up to three terms over the n images of one group, computed in float32 or wider.

    ``rank`` is the mean binary cross-entropy over all n x n ordered pairs, pair ``i * n + j`` being right at 1 where
    ``targets[i] > targets[j]`` and at 0 elsewhere; so of equal images both orders are 0, and so is an image beside
    itself, which pulls the bias of the pair logits down. ``regression`` is ``log(1 + smooth L1)`` of the scores.
    ``bce`` is the binary cross-entropy of the scores, as logits, with whether a target differs from 0, for counts.

    Source: arXiv 2412.06760, section 3.3, and its released loss.py; ``mask_ties`` is ours.

    Args:
        scores: of the images, as ``models.heads.ranking_adapter.RankingAdapter`` gives them.
        pair_logits: of all ordered pairs; None where ``rank`` is not asked for.
        targets: of the images, in any unit. The smooth L1 is not scale-free: bring them to a spread of about 1.
        components: the terms, each once.
        rank_weight: of the pairs.
        reg_weight: of the regression.
        bce_weight: of the third.
        mask_ties: leave pairs of equal targets out, an image beside itself among them.

    Returns:
        The total and its terms, each with its weight.

    Raises:
        InputError: no image, shapes that do not fit, a component twice, or targets with NaN or infinity.

    Example:
        >>> import torch
        >>> from tether.losses import ranking_loss
        >>> scores, targets = torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0])
        >>> right = torch.tensor([[-9.0], [-9.0], [9.0], [-9.0]])  # image 1 is above image 0
        >>> loss = ranking_loss(scores, right, targets)
        >>> round(loss.total.item(), 4), loss.terms["regression"].item()
        (0.0001, 0.0)
    """
    n = len(targets)
    if targets.ndim != 1 or not n or scores.shape != (n, 1):
        raise InputError(f"expected (n, 1) scores and (n,) targets, got {tuple(scores.shape)}, {tuple(targets.shape)}")
    if bad := (~torch.isfinite(targets)).nonzero().flatten().tolist():
        raise InputError(f"targets: expected finite numbers, got {targets[bad[0]].item()} at row {bad[0]}")
    if len(set(components)) < len(components):
        raise InputError(f"components: expected each once, got {list(components)}")
    wide = torch.promote_types(scores.dtype, torch.float32)
    found, wanted = scores[:, 0].to(wide), targets.to(wide)
    terms: dict[str, Tensor] = {}
    with torch.autocast(scores.device.type, enabled=False):
        if "rank" in components:
            if pair_logits is None or pair_logits.shape != (n * n, 1):
                shape = None if pair_logits is None else tuple(pair_logits.shape)
                raise InputError(f"pair_logits: expected ({n * n}, 1), all ordered pairs of {n} images, got {shape}")
            terms["rank"] = rank_weight * _pairs(pair_logits[:, 0].to(wide), wanted, mask_ties=mask_ties)
        if "regression" in components:
            terms["regression"] = reg_weight * torch.log1p(F.smooth_l1_loss(found, wanted))
        if "bce" in components:
            terms["bce"] = bce_weight * F.binary_cross_entropy_with_logits(found, (wanted != 0).to(wide))
    return Loss(torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()})


def _pairs(logits: Float[Tensor, " pairs"], targets: Float[Tensor, " n"], *, mask_ties: bool) -> Float[Tensor, ""]:
    if len(targets) < 2:
        warnings.warn("one image has no order: its pair loss is 0; give groups of two or more", OneImageWarning, 4)
        return 0.0 * logits.sum()
    difference = (targets[:, None] - targets[None]).flatten()
    above: Bool[Tensor, " pairs"] = difference > 0
    if not mask_ties:
        return F.binary_cross_entropy_with_logits(logits, above.to(logits))
    each = F.binary_cross_entropy_with_logits(logits, above.to(logits), reduction="none")
    untied = (difference != 0).to(logits)
    return (each * untied).sum() / untied.sum().clamp(min=1)
