"""Each side predicts how the other is assigned: soft targets by Sinkhorn's algorithm in place of one positive."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.ranges import Positive, checked
from tether.losses.rocket import unit

Iterations = Annotated[int, Ge(1)]
VIEWS = 2
"""Strong views that ``swapped_loss`` takes: the targets of one come from the other."""


@checked
@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "b n"], *, eps: Positive = 0.05, iters: Iterations = 3, gather: Gather | None = None
) -> Float[Tensor, "b n"]:
    """Assignments of samples to prototypes, of which each prototype gets about as many; no gradient.

    ``exp(scores / eps)`` whose columns and then rows are scaled, by turns, to equal sums; at the end each row sums to
    1. In logarithms and at least float32, so nothing overflows.

    Args:
        scores: of each sample (row) with each prototype (column).
        eps: the smaller, the harder the assignments.
        iters: rounds.
        gather: rows of all processes, which share the prototypes; None for this process alone.

    Source: arXiv 2305.08675, released code; SwAV (arXiv 2006.09882).

    Example:
        >>> import torch
        >>> from tether.methods.improved_baselines import sinkhorn
        >>> sinkhorn(torch.tensor([[1.0, 0.0], [1.0, 0.9]])).argmax(dim=1).tolist()
        [0, 1]
    """
    gather = gather or LOCAL
    with torch.autocast(scores.device.type, enabled=False):
        logs = gather(scores.to(torch.promote_types(scores.dtype, torch.float32))) / eps
        for _ in range(iters):
            logs = logs - logs.logsumexp(dim=0, keepdim=True)
            logs = logs - logs.logsumexp(dim=1, keepdim=True)
        return logs.exp()[gather.rank * len(scores) : (gather.rank + 1) * len(scores)]


@checked
def swapped_loss(
    local_image: Float[Tensor, "k b d"],
    local_text: Float[Tensor, "k b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    eps: Positive = 0.05,
    iters: Iterations = 3,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """SwALIP: cross-entropy of two views' logits with the assignments of the opposite two views.

    The rows of the other side are the prototypes: the target of image view a among text view b is ``sinkhorn`` of the
    cosines of image view 1 - a with text view 1 - b. The mean over both directions and all four pairs of views.

    Args:
        local_image: embeddings of the two strong views of each image, of any length.
        local_text: of the two of each text.
        logit_scale: multiplier of the cosines, already exponentiated.
        eps: see ``sinkhorn``.
        iters: see ``sinkhorn``.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: not two views of each side.

    Source: arXiv 2305.08675, released code; it weighs this term by 0.2.
    """
    for name, views in (("local_image", local_image), ("local_text", local_text)):
        if views.ndim != 3 or len(views) != VIEWS or not views.shape[1]:
            raise InputError(f"{name}: expected {VIEWS} views (2, b, d) with b >= 1, got {tuple(views.shape)}")
    gather = gather or LOCAL
    own = gather.rank * local_image.shape[1]
    mine = slice(own, own + local_image.shape[1])
    sides = [[unit(view) for view in views] for views in (local_image, local_text)]
    losses = []
    for left, right in (sides, sides[::-1]):
        keys = [gather(view) for view in right]
        everyone = [gather(view.detach()) for view in left]
        for a in range(VIEWS):
            for b in range(VIEWS):
                wanted = sinkhorn((everyone[1 - a] @ keys[1 - b].T).detach(), eps=eps, iters=iters)[mine]
                losses.append(_soft_cross_entropy(logit_scale * left[a] @ keys[b].T, wanted))
    return torch.stack(losses).mean()


@checked
def prototype_swapped_loss(
    image_scores: Float[Tensor, "b n"],
    text_scores: Float[Tensor, "b n"],
    *,
    temperature: Positive = 0.1,
    eps: Positive = 0.05,
    iters: Iterations = 3,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """SwALIP's first form: each side's scores with shared prototypes predict the assignment of the other side.

    Args:
        image_scores: of each image with each prototype.
        text_scores: of its text.
        temperature: the scores are divided by it before the cross-entropy.
        eps: see ``sinkhorn``.
        iters: see ``sinkhorn``.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: other rows of images than of texts, or none.

    Source: arXiv 2305.08675, released code (``SwALIPV1Loss``).
    """
    if image_scores.shape != text_scores.shape or not len(image_scores):
        raise InputError(
            f"expected as many image as text scores, got {tuple(image_scores.shape)} and {tuple(text_scores.shape)}"
        )
    losses = [
        _soft_cross_entropy(scores / temperature, sinkhorn(other, eps=eps, iters=iters, gather=gather))
        for scores, other in ((image_scores, text_scores), (text_scores, image_scores))
    ]
    return (losses[0] + losses[1]) / 2


def _soft_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -(wanted * wide.log_softmax(dim=1)).sum(dim=1).mean()
