"""A language model's next-token distributions in a few entries each: the likely tokens and one tail."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, Inner, checked

TILE_BYTES, ACCELERATOR_TILE_BYTES = 1 << 20, 256 << 20
"""Size of one tile of logits in float32: on a CPU about a core's cache."""


@dataclass(frozen=True, slots=True)
class SparseDist:
    """Distributions over a vocabulary, each stored by its likely tokens; all others share one small probability.

    Slot 0 is always the sampled token. Slots that a row does not need hold the id ``vocabulary`` and minus infinity.
    Source: arXiv 2510.03817, section 3.2.

    Attributes:
        ids: (..., s) kept tokens.
        logp: (..., s) their log-probabilities.
        tail: (...) log-probability of each token that is not kept.
        mass: (...) probability of the kept tokens before all was renormalised, detached. Far below ``1 - delta`` the
            divergence from another such distribution is exaggerated, for where their tokens differ it sees ``q_min``.
        vocabulary: number of tokens.
        k: see ``from_logits``, as are the next two.
        delta: likewise.
        q_min: likewise.
    """

    ids: Int[Tensor, "*b s"]
    logp: Float[Tensor, "*b s"]
    tail: Float[Tensor, " *b"]
    mass: Float[Tensor, " *b"]
    vocabulary: int
    k: int = 64
    delta: float = 1e-5
    q_min: float = 1e-12

    @classmethod
    @checked
    def from_logits(
        cls,
        logits: Float[Tensor, "*b v"],
        sampled: Int[Tensor, " *b"],
        *,
        k: Count = 64,
        delta: Decay = 1e-5,
        q_min: Inner = 1e-12,
    ) -> SparseDist:
        """Keep the likeliest tokens of each row, differentiably, tail included.

        The kept ones are the smallest set of likeliest tokens with a mass of at least ``1 - delta``, at most ``k``,
        and the sampled token. Every other token gets the mass ``q_min``; then all is renormalised. Half precision is
        widened to float32. There are as many slots as the fullest row needs, or one more; an accelerator is waited for
        to know.

        Args:
            logits: of the next token, already divided by the temperature of sampling.
            sampled: tokens that were drawn.
            k: most tokens kept for their likelihood.
            delta: mass that may be left to the tail, in [0, 1).
            q_min: mass of a token in the tail before all is renormalised, in (0, 1).

        Raises:
            InputError: shapes that do not fit, or (looked at on the CPU only) a token that is
                not in the vocabulary.
        """
        if logits.ndim < 1 or logits.shape[-1] == 0 or logits.shape[:-1] != sampled.shape:
            raise InputError(
                f"expected logits (..., v) and sampled (...), got {tuple(logits.shape)} and {tuple(sampled.shape)}"
            )
        vocabulary = logits.shape[-1]
        _check_tokens(sampled, vocabulary)
        wide = torch.promote_types(logits.dtype, torch.float32)
        rows = logits.reshape(-1, vocabulary)
        total = _log_normaliser(rows.detach())
        ids = _likely(rows.detach(), total, sampled.reshape(-1), k=k, delta=delta)
        logp = _LogProbs.apply(rows, total, ids.clamp(max=vocabulary - 1))
        ids, logp = (x.view(*sampled.shape, -1) for x in (ids, logp))
        kept = ids < vocabulary
        logp = logp.masked_fill(~kept, -math.inf)
        others = (vocabulary - kept.sum(dim=-1)).to(wide)
        norm = torch.logsumexp(torch.cat([logp, (others.log() + math.log(q_min)).unsqueeze(-1)], dim=-1), dim=-1)
        mass = logp.detach().exp().sum(dim=-1)
        return cls(ids, logp - norm.unsqueeze(-1), math.log(q_min) - norm, mass, vocabulary, k, delta, q_min)

    @property
    def kept(self) -> Int[Tensor, " *b"]:
        """How many tokens each row stores."""
        return (self.ids < self.vocabulary).sum(dim=-1)

    def detach(self) -> SparseDist:
        """The same values as constants."""
        return dataclasses.replace(self, logp=self.logp.detach(), tail=self.tail.detach())

    def dense(self) -> Float[Tensor, "*b v"]:
        """Log-probabilities of the whole vocabulary; for small ones."""
        whole = self.tail.unsqueeze(-1).repeat_interleave(self.vocabulary + 1, dim=-1)
        return whole.scatter(-1, self.ids, self.logp)[..., : self.vocabulary]

    def beside(self, other: SparseDist) -> tuple[Float[Tensor, "*b u"], Float[Tensor, "*b u"]]:
        """Log-probabilities of both on the union of their tokens, as categories that add up to 1.

        Category 0 is the sampled token, the last one holds all tokens that neither keeps: within it both are even, so
        divergences between the two are those over the whole vocabulary. Unused categories hold minus infinity.

        Args:
            other: distributions of the same rows and sampled tokens.
        """
        if self.vocabulary != other.vocabulary or self.tail.shape != other.tail.shape:
            raise InputError(
                f"expected distributions of the same rows and vocabulary, got {tuple(self.tail.shape)} over "
                f"{self.vocabulary} tokens and {tuple(other.tail.shape)} over {other.vocabulary}"
            )
        empty = self.vocabulary
        _, known = _find(other.ids, self.ids)
        extra = self.ids.masked_fill(known, empty)[..., 1:]
        place, shared = _find(self.ids, other.ids)
        unused = (extra == empty, other.ids == empty)
        here = torch.where(shared, self.logp.gather(-1, place), self.tail.unsqueeze(-1))
        left = [here.masked_fill(unused[1], -math.inf), self.logp[..., 1:].masked_fill(unused[0], -math.inf)]
        there = other.tail.unsqueeze(-1).expand_as(extra)
        right = [other.logp, there.masked_fill(unused[0], -math.inf)]
        rest = empty - (~unused[0]).sum(dim=-1) - (~unused[1]).sum(dim=-1)
        lump = rest.to(self.tail.dtype).log()
        left.append((self.tail + lump).unsqueeze(-1))
        right.append((other.tail + lump).unsqueeze(-1))
        return torch.cat(left, dim=-1), torch.cat(right, dim=-1)


def _check_tokens(sampled: Tensor, vocabulary: int) -> None:
    if sampled.is_floating_point() or sampled.dtype == torch.bool:
        raise InputError(f"sampled: expected token ids, got {sampled.dtype}")
    if (
        sampled.device.type == "cpu"
        and sampled.numel()
        and not 0 <= int(sampled.min()) <= int(sampled.max()) < vocabulary
    ):
        raise InputError(
            f"sampled: expected tokens in [0, {vocabulary}), got {int(sampled.min())} to {int(sampled.max())}"
        )


def _log_normaliser(logits: Tensor) -> Float[Tensor, "n 1"]:
    """Logarithm of the sum of exponentials, a tile of rows at a time: on a CPU the tile stays in the cache."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = logits.new_empty(len(logits), 1, dtype=wide)
    for rows in _tiles(logits):
        tile = logits[rows].to(wide, copy=True)
        peak = tile.amax(dim=1, keepdim=True)
        total[rows] = tile.sub_(peak).exp_().sum(dim=1, keepdim=True).log_().add_(peak)
    return total


class _LogProbs(torch.autograd.Function):
    """Log-probabilities of some tokens; backward writes one array of the logits' size instead of three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, total: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(logits, total, ids)
        return logits.gather(1, ids).to(total.dtype) - total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise InputError("SparseDist has first-order gradients only (create_graph=True was given)")
        logits, total, ids = ctx.saved_tensors
        (gradient,) = grad_outputs
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        weight = -gradient.sum(dim=1, keepdim=True)
        for rows in _tiles(logits):
            tile = logits[rows].to(total.dtype, copy=True)
            result[rows] = tile.sub_(total[rows]).exp_().mul_(weight[rows])
        return result.scatter_add_(1, ids, gradient.to(result.dtype)), None, None


def _tiles(rows: Tensor) -> Iterator[slice]:
    size = TILE_BYTES if rows.device.type == "cpu" else ACCELERATOR_TILE_BYTES
    height = max(1, size // (4 * rows.shape[1]))
    return (slice(start, start + height) for start in range(0, len(rows), height))


def _likely(logits: Tensor, total: Tensor, sampled: Tensor, *, k: int, delta: float) -> Int[Tensor, "n s"]:
    """Ids of the sampled token and of the likeliest others, cut to the slots that some row needs."""
    top = logits.topk(min(k, logits.shape[1]), dim=1)
    mass = (top.values.to(total.dtype) - total).exp()
    keep = (mass.cumsum(dim=1) - mass < 1 - delta) & (top.indices != sampled[:, None])
    # Kept ones are a prefix, but for the hole that the sampled token leaves in it.
    places = keep.any(dim=0).nonzero()
    width = int(places.max()) + 1 if len(places) else 0
    others = torch.where(keep, top.indices, logits.shape[1])[:, :width]
    return torch.cat([sampled[:, None].to(torch.int64), others], dim=1)


def _find(inside: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Slot of each wanted id among ``inside``, and whether it is there; empty slots are nowhere to be found."""
    ordered, order = inside.sort(dim=-1, stable=True)
    place = torch.searchsorted(ordered, wanted).clamp_(max=ordered.shape[-1] - 1)
    slot = order.gather(-1, place)
    return slot, ordered.gather(-1, place) == wanted
