"""QualiCLIP's loss: the worse a crop, the further from "good" and the nearer to "bad" (arXiv 2403.11176)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked
from tether.core.types import Loss

Pairs = Literal["all", "adjacent"]


@checked
def quality_ranking_loss(
    image: Float[Tensor, "l c n d"],
    positive: Float[Tensor, "*p d"],
    negative: Float[Tensor, "*p d"],
    *,
    m_cons: NonNegative = 2.5e-3,
    m_rank: NonNegative = 6.75e-2,
    pairs: Pairs = "all",
    weights: tuple[NonNegative, NonNegative, NonNegative] = (1.0, 1.0, 1.0),
) -> Loss:
    """Weighted sum of three means of hinges on cosines of crops with two texts, computed in float32 or wider.

    ``cons``: the two crops of a level may differ by ``m_cons``, in either cosine; the two means are added. ``pos``: a
    crop of a milder level is nearer to the positive text than each crop of a worse one, by ``m_rank`` at least.
    ``neg``: and so much further from the negative text. The loss is 0 for a ladder with such steps and equal crops.

    Source: QualiCLIP (arXiv 2403.11176), whose code of training is not public: the mean as reduction, all pairs of
    levels and equal weights are our reading. The margins are for CLIP's narrow cone; look at the spread of a small
    model's cosines first.

    Args:
        image: embeddings of any length: l levels, the mildest first, 2 crops of each, n images.
        positive: of what a good image is like; of several texts the mean cosine counts. (d,) is one text.
        negative: of what a bad one is like, as many.
        m_cons: margin of cosines.
        m_rank: margin of cosines.
        pairs: which levels are compared: ``all``, or only ``adjacent`` ones.
        weights: of the three terms.

    Returns:
        The total and its terms, each with its weight.

    Raises:
        InputError: fewer than two levels, not two crops, no image, texts that do not fit, or one without a direction.

    Example:
        >>> import torch
        >>> from tether.methods.qualiclip import quality_ranking_loss
        >>> angle = torch.tensor([0.1, 0.6, 1.1])  # three levels, the mildest the nearest to the first axis
        >>> image = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None, None].expand(3, 2, 1, 2)
        >>> good, bad = torch.eye(2)
        >>> quality_ranking_loss(image, good, bad).total.item()
        0.0
        >>> round(quality_ranking_loss(image, bad, good).total.item(), 3)  # the wrong way round
        1.024
    """
    if image.ndim != 4 or image.shape[0] < 2 or image.shape[1] != 2 or not image.numel():
        raise InputError(f"image: expected (levels, 2 crops, n, d) with two levels or more, got {tuple(image.shape)}")
    if positive.shape != negative.shape or positive.ndim not in (1, 2) or positive.shape[-1] != image.shape[-1]:
        raise InputError(
            f"positive, negative: expected as many texts of width {image.shape[-1]}, got {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}"
        )
    wide = torch.promote_types(image.dtype, torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        rows = F.normalize(image.to(wide), dim=-1)
        good, bad = (_direction(text.to(rows), name) for text, name in ((positive, "positive"), (negative, "negative")))
        good, bad = rows @ good, rows @ bad
        apart = [F.relu((one[:, 0] - one[:, 1]).abs() - m_cons).mean() for one in (good, bad)]
        milder, worse = torch.triu_indices(len(image), len(image), offset=1, device=image.device)
        if pairs == "adjacent":
            milder, worse = milder[worse == milder + 1], worse[worse == milder + 1]
        falls = good[milder][:, :, None] - good[worse][:, None]
        rises = bad[worse][:, None] - bad[milder][:, :, None]
        terms = {
            "cons": weights[0] * (apart[0] + apart[1]),
            "pos": weights[1] * F.relu(m_rank - falls).mean(),
            "neg": weights[2] * F.relu(m_rank - rises).mean(),
        }
    return Loss(torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()})


def _direction(text: Tensor, name: str) -> Float[Tensor, " d"]:
    """The vector whose product with a unit row is the mean of its cosines with the texts."""
    text = text.reshape(-1, text.shape[-1])
    if not len(text) or not (text.norm(dim=1) > 0).all():
        raise InputError(f"{name}: expected texts with a direction, got none, NaN or a row of zeros")
    return F.normalize(text, dim=1).mean(dim=0)
