"""TROLL: a trust region for language-model policies that projects each token's distribution instead of clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Positive, checked
from tether.core.types import Loss
from tether.methods.troll.kl_projection import check_normalised, kl_divergence, project_kl
from tether.methods.troll.sparse_policy import SparseDist

EPS = 0.05
"""Radius in nats, from an independent implementation; the paper's table was not seen."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What the projection says of each token; outside the mask t is 1 and all else 0.

    Attributes:
        ratio: (b, l) probability of the token under the projected policy over that under the old one; with gradient.
        regression: (b, l) KL(network || projection) in nats, the projection a constant; with gradient.
        t: (b, l) weight of the network in the projection; 1 where it is inside the trust region.
        kl_before: (b, l) KL(network || old).
        kl_after: (b, l) KL(projection || old).
    """

    ratio: Float[Tensor, "b l"]
    regression: Float[Tensor, "b l"]
    t: Float[Tensor, "b l"]
    kl_before: Float[Tensor, "b l"]
    kl_after: Float[Tensor, "b l"]


@final
class TROLLLoss:
    """The policy-gradient loss of arXiv 2510.03817 (section 3): importance ratios of projected distributions.

    Each token's distribution is pulled onto the KL ball around the policy that sampled it if it lies outside; its
    ratio to the old one weighs the advantage, and a regression term draws the network to the projection. Unlike with
    PPO's clipped ratio, a token outside the region keeps a gradient. A sequence counts as the mean of its tokens, a
    batch as the mean of its sequences; one without tokens counts 0. It keeps no state.

    Example:
        >>> import torch
        >>> from tether.methods.troll import TROLLLoss
        >>> old = torch.zeros(2, 3, 5).log_softmax(dim=-1)  # the policy that sampled: 2 answers of 3 tokens
        >>> new = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0]).expand(2, 3, 5).clone())  # far from it
        >>> tokens, advantages, mask = torch.full((2, 3), 4), torch.tensor([1.0, -1.0]), torch.ones(2, 3)
        >>> loss = TROLLLoss(eps=0.05)(new, old, tokens, advantages, mask)
        >>> loss.total.backward()
        >>> [round(float(loss.terms[name]), 2) for name in ("projected", "kl_before", "kl_after")]
        [1.0, 1.6, 0.05]
    """

    @checked
    def __init__(self, *, eps: Positive = EPS, alpha: NonNegative = 1.0) -> None:
        """Take the settings.

        Args:
            eps: radius of the trust region in nats per token.
            alpha: weight of the regression term.
        """
        self.eps, self.alpha = eps, alpha

    def __call__(
        self,
        logits_new: Float[Tensor, "b l v"],
        old: Float[Tensor, "b l v"] | SparseDist,
        tokens: Int[Tensor, "b l"],
        advantages: Float[Tensor, "b l"] | Float[Tensor, " b"],
        mask: Bool[Tensor, "b l"] | Int[Tensor, "b l"] | Float[Tensor, "b l"],
    ) -> Loss:
        """The loss, and of the tokens in the mask: the share that was projected, mean divergences, mean ratio.

        With a sparse ``old`` also ``kept_mass``, the mean probability of its kept tokens: raise ``k`` if it is low.

        Args:
            logits_new: of the network being trained, divided by the temperature of sampling.
            old: log-probabilities of the policy that sampled, whole or sparse; a constant.
            tokens: what was sampled.
            advantages: of each token, or one for a whole sequence.
            mask: which tokens count.

        Raises:
            InputError: shapes that do not fit, an ``old`` that is not normalised or was stored for other tokens.
        """
        if mask.shape != tokens.shape or advantages.shape not in (tokens.shape, tokens.shape[:1]):
            raise InputError(
                f"expected mask {tuple(tokens.shape)} and advantages of that shape or ({len(tokens)},), "
                f"got {tuple(mask.shape)} and {tuple(advantages.shape)}"
            )
        inside = mask.bool()
        terms = self.per_token(logits_new, old, tokens, mask=inside)
        weights = advantages if advantages.ndim == 2 else advantages[:, None]
        gain = torch.where(inside, terms.ratio * weights - self.alpha * terms.regression, 0)
        count = inside.sum(dim=1).clamp(min=1)
        total = -(gain.sum(dim=1) / count).mean()
        tokens_seen = inside.sum().clamp(min=1)
        logs = {
            "projected": (terms.t < 1).sum() / tokens_seen,
            "kl_before": terms.kl_before.sum() / tokens_seen,
            "kl_after": terms.kl_after.sum() / tokens_seen,
            "regression": terms.regression.detach().sum() / tokens_seen,
            "ratio": terms.ratio.detach().sum() / tokens_seen,
        }
        if isinstance(old, SparseDist):
            logs["kept_mass"] = old.mass.masked_fill(~inside, 0).sum() / tokens_seen
        return Loss(total, logs)

    def per_token(
        self,
        logits_new: Float[Tensor, "b l v"],
        old: Float[Tensor, "b l v"] | SparseDist,
        tokens: Int[Tensor, "b l"],
        *,
        mask: Bool[Tensor, "b l"] | None = None,
    ) -> TokenTerms:
        """The parts of the loss token by token, for a trainer that has a way of its own to average them."""
        if logits_new.ndim != 3 or logits_new.shape[:2] != tokens.shape:
            raise InputError(
                f"expected logits (b, l, v) and tokens (b, l), got {tuple(logits_new.shape)} and {tuple(tokens.shape)}"
            )
        keep = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        if isinstance(old, SparseDist):
            new, before = _sparse(logits_new, old, tokens, keep)
            place = torch.zeros_like(tokens[keep])
        else:
            new, before = _whole(logits_new, old, keep)
            place = tokens[keep]
        projected, t = project_kl(new, before, self.eps)
        sampled = place[:, None]
        ratio = (projected.gather(-1, sampled) - before.gather(-1, sampled)).squeeze(-1).exp()
        pull = torch.where(t < 1, kl_divergence(new, projected.detach()), 0)  # inside the ball exactly 0
        with torch.no_grad():
            kl_before, kl_after = kl_divergence(new, before), kl_divergence(projected, before)
        zeros = t.new_zeros(tokens.shape)
        ratio, pull, kl_before, kl_after = (zeros.masked_scatter(keep, x) for x in (ratio, pull, kl_before, kl_after))
        return TokenTerms(ratio, pull, torch.ones_like(zeros).masked_scatter(keep, t), kl_before, kl_after)


def _whole(logits: Tensor, old: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    if old.shape != logits.shape:
        raise InputError(f"expected old log-probabilities {tuple(logits.shape)}, got {tuple(old.shape)}")
    wide = torch.promote_types(torch.promote_types(logits.dtype, old.dtype), torch.float32)
    before = old.detach()[keep].to(wide)
    check_normalised(before, name="old")
    return logits[keep].to(wide).log_softmax(dim=-1), before


def _sparse(logits: Tensor, old: SparseDist, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    if old.vocabulary != logits.shape[-1] or old.tail.shape != tokens.shape:
        raise InputError(
            f"expected an old policy of {tuple(tokens.shape)} tokens over {logits.shape[-1]} words, "
            f"got {tuple(old.tail.shape)} over {old.vocabulary}"
        )
    if tokens.device.type == "cpu" and not torch.equal(old.ids[..., 0][keep], tokens[keep]):
        raise InputError("old: its sampled tokens are not the tokens given; store it with the tokens that were drawn")
    new = SparseDist.from_logits(logits, tokens, k=old.k, delta=old.delta, q_min=old.q_min)
    left, right = new.beside(old.detach())
    return left[keep], right[keep]
