"""Hard contrastive learning: negatives weigh more the nearer they are, less what of them must be false ones."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import Decay, NonNegative, Positive, Whole, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_cosine, check_unit_pairs, unit_rows
from tether.losses.positive_override import own_places, products


@checked
def hard_contrastive_loss(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "n d"],
    *,
    scale: Float[Tensor, ""] | float = 2.0,
    beta: NonNegative = 1.0,
    prior: Decay = 0.1,
    offset: Whole = 0,
) -> Float[Tensor, " b"]:
    """``-log(p / (p + N))`` of each query, one way, with ``p = exp(scale * cosine)`` of its own key.

    ``N = (R - prior n p) / (1 - prior)``, where ``R`` is the sum of the negatives' ``exp(scale * cosine)``, each
    weighted by its ``beta``-th power over the mean weight. ``N`` is held at ``n exp(-scale)``, the least it can be; the
    m2-Mix release has no such floor. With ``beta = prior = 0`` it is InfoNCE. The (b, n) table is made whole.

    Source: arXiv 2010.04592, section 3; for two modalities the release of arXiv 2203.03897.

    Args:
        queries: rows of length 1.
        keys: at least two rows of length 1; query i belongs to key ``offset + i``.
        scale: multiplier of the cosines, already exponentiated; 2 is the published temperature of 0.5.
        beta: how much harder negatives weigh more, >= 0.
        prior: share of the keys that mean the same as the query, in [0, 1).
        offset: key of query 0.

    Raises:
        InputError: fewer than two keys.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from tether.methods.m2_mix.hard_contrastive import hard_contrastive_loss
        >>> image, text = F.normalize(torch.randn(2, 16, 32), dim=-1)
        >>> hard_contrastive_loss(image, text).shape
        torch.Size([16])
    """
    count = len(keys)
    if count < 2:
        raise InputError(f"expected at least two keys, for one has no negative, got {count}")
    logits = scale * products(queries, keys)
    mine = own_places(len(queries), keys=count, offset=offset, device=logits.device)
    own = logits[mine]
    weight, weighted = ((power * logits).masked_fill(mine, -torch.inf) for power in (beta, 1 + beta))
    negatives = weighted.logsumexp(dim=1) - weight.logsumexp(dim=1) + math.log(count - 1) - own  # log(R / p)
    if prior:
        least = math.log(prior * count)
        enough = negatives > least
        held = torch.where(enough, negatives, least + 1.0)  # keeps the slope finite where nothing is left
        rest = held + torch.log1p(-torch.exp(least - held)) - math.log1p(-prior)
        negatives = torch.where(enough, rest, -torch.inf)
    floor = math.log(count) - scale - own
    ratio = torch.maximum(negatives, floor)
    return torch.logaddexp(ratio, torch.zeros_like(ratio))


@final
class HardContrastiveLoss:
    """HCL as an objective of a loop of one's own, the mean of both directions: what m2-Mix is compared with.

    With a number for ``tau`` the model's own scale is not used: train with ``logit_scale: fixed``.

    Source: see ``hard_contrastive_loss``.
    """

    @checked
    def __init__(self, *, tau: Positive | None = 0.5, beta: NonNegative = 1.0, prior: Decay = 0.1) -> None:
        """Take the settings; the defaults are the m2-Mix release's.

        Args:
            tau: temperature; None takes the model's.
            beta: how much harder negatives weigh more.
            prior: share of the batch that means the same as a pair, in [0, 1).
        """
        self.tau, self.beta, self.prior = tau, beta, prior

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss, and the logit scale."""
        check_cosine(out)
        sides = unit_rows(out.image), unit_rows(out.text)
        check_unit_pairs(*sides)
        offset, scale = gather.rank * len(sides[0]), out.logit_scale if self.tau is None else 1 / self.tau
        losses = [
            hard_contrastive_loss(
                queries, gather(keys), scale=scale, beta=self.beta, prior=self.prior, offset=offset
            ).mean()
            for queries, keys in (sides, sides[::-1])
        ]
        total = (losses[0] + losses[1]) / 2
        return Loss(total, {"contrastive": total.detach(), "logit_scale": out.logit_scale.detach()})
