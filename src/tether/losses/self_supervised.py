"""Agreement of two views of the same things: by contrast with others, or with a target that rests and no negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Positive, checked
from tether.losses.positive_override import own_places, products
from tether.losses.rocket import unit


@checked
def nt_xent_loss(
    first: Float[Tensor, "b d"], second: Float[Tensor, "b d"], *, temperature: Positive = 0.1, gather: Gather = LOCAL
) -> Float[Tensor, ""]:
    """Cross-entropy of each row's other view among all rows of both views but itself, the mean over both views.

    SimCLR's loss (arXiv 2002.05709, section 2.1), as SLIP (arXiv 2112.12750) and A-CLIP (arXiv 2212.08653) add it to
    CLIP's. A-CLIP's released code gives it the first view twice, which makes it almost constant; the paper means two.
    The (b, 2n) table is made whole.

    Args:
        first: rows of any length; they are compared by cosine.
        second: the other view of the same images, row by row.
        temperature: that cosines are divided by.
        gather: rows of all processes.

    Raises:
        InputError: views of unequal length, or without rows.

    Example:
        >>> import torch
        >>> from tether.losses.self_supervised import nt_xent_loss
        >>> views = torch.eye(4)
        >>> round(nt_xent_loss(views, views).item(), 4)  # six others at a cosine of 0
        0.0003
    """
    views = _unit_views(first, second)
    seen, count = [gather(rows) for rows in views], len(first)
    offset = gather.rank * count
    wanted = torch.arange(offset, offset + count, device=first.device)
    losses = []
    for rows, own, other in ((views[0], *seen), (views[1], *reversed(seen))):
        itself = own_places(count, keys=len(own), offset=offset, device=first.device)
        logits = torch.cat([products(rows, other), products(rows, own).masked_fill(itself, -torch.inf)], dim=1)
        losses.append(F.cross_entropy(logits / temperature, wanted))
    return (losses[0] + losses[1]) / 2


def siamese_loss(prediction: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Mean over rows of ``2 - 2 cosine``, the squared distance of unit rows; the target gets no gradient.

    Args:
        prediction: what a predictor makes of one view or side, rows of any length.
        target: the projection of the other, row by row: of the same weights (SiamLIP), or of weights that trail them
            (A-CLIP, BYOLIP).

    Raises:
        InputError: unequal lengths, or no rows.

    Source: BYOL (arXiv 2006.07733, section 3.1) and SimSiam (arXiv 2011.10566); A-CLIP (arXiv 2212.08653); SiamLIP and
    BYOLIP of arXiv 2305.08675.

    Example:
        >>> import torch
        >>> from tether.losses import siamese_loss
        >>> siamese_loss(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])).item()
        1.0
    """
    prediction, target = _unit_views(prediction, target.detach())
    return (2 - 2 * (prediction * target).sum(dim=1)).mean()


def _unit_views(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both of length 1, in float32 or wider."""
    if first.ndim != 2 or first.shape != second.shape or not first.numel():
        found = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise InputError(f"expected as many rows (b, d) of both views, got {found}")
    return unit(first), unit(second)
