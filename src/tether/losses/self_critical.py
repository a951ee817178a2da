"""A captioner's loss by its own samples: those that score above its greedy caption become likelier."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Whole, checked


def until_end(tokens: Int[Tensor, "n l"], *, end: int) -> Bool[Tensor, "n l"]:
    """True up to and including the first ``end`` of each row; everywhere where there is none."""
    ends = (tokens == end).long()
    return ends.cumsum(1) - ends == 0


@checked
def self_critical_loss(
    logp: Float[Tensor, "n l"],
    tokens: Int[Tensor, "n l"],
    reward: Float[Tensor, " n"],
    *,
    eos_id: Whole = 0,
    mask: Bool[Tensor, "n l"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over all tokens of minus log-probability times the reward of the caption that the token is part of.

    Source: self-critical training (arXiv 1612.00563) as in CLIP-Caption-Reward (arXiv 2205.13115, section 3), released
    ``modules/losses.py``. Long captions have more tokens in the mean and so more weight. With rewards of 1 it is
    cross-entropy.

    Args:
        logp: natural logarithms of the probabilities of the tokens, with gradient.
        tokens: captions, K of each image side by side.
        reward: of each caption, the greedy caption's subtracted; no gradient goes through it.
        eos_id: the token that ends a caption.
        mask: which tokens count; None takes all up to and including the first ``eos_id``, and all of a caption
            without one.

    Raises:
        InputError: no tokens that count, shapes that differ, or a reward that is not finite.

    Example:
        >>> import torch
        >>> from tether.losses import self_critical_loss
        >>> logp, tokens = torch.full((2, 3), -2.0), torch.tensor([[5, 0, 0], [4, 3, 2]])
        >>> self_critical_loss(logp, tokens, torch.tensor([1.0, -1.0])).item()  # (2 tokens * 2 - 3 * 2) / 5
        -0.4000000059604645
    """
    if logp.ndim != 2 or logp.shape != tokens.shape or reward.shape != logp.shape[:1]:
        shapes = f"{tuple(logp.shape)}, {tuple(tokens.shape)} and {tuple(reward.shape)}"
        raise InputError(f"logp, tokens, reward: expected (n, l), (n, l) and (n,), got {shapes}")
    if bool((bad := ~torch.isfinite(reward)).any()):
        row = int(bad.nonzero()[0])
        raise InputError(f"reward: expected finite numbers, got {float(reward[row])} for caption {row}")
    counts = (until_end(tokens, end=eos_id) if mask is None else mask).to(logp.device)
    if counts.shape != logp.shape or not bool(counts.any()):
        raise InputError(f"mask: expected {tuple(logp.shape)} with a token that counts, got {tuple(counts.shape)}")
    weighed = logp * reward.detach().to(logp)[:, None]
    return -torch.where(counts, weighed, torch.zeros_like(weighed)).sum() / counts.sum()
