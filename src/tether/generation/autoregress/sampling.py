"""Codewords drawn scale by scale, with and without a text, from what the scales before say."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Share, Whole, checked
from tether.generation.autoregress.transformer import Memory, ScaleTransformer
from tether.models.latent.quantizer import MultiScaleQuantizer
from tether.models.train_mode import eval_mode

Guidance = Annotated[float, Ge(0), Le(1000)]
"""How far a text's logits are pushed away from those without one; 0 does not push."""


@checked
def kept(logits: Float[Tensor, "... v"], *, top_k: Whole = 0, top_p: Share = 0.0) -> Bool[Tensor, "... v"]:
    """True where a codeword may be drawn: among the likeliest.

    Args:
        logits: of all codewords.
        top_k: the ``top_k`` likeliest, and what is as likely as the last of them; 0 or more than there are keeps all.
        top_p: of these the likeliest that have this share of the probability together; 0 keeps all, as 1 does.

    Source: the sampler of VAR-CLIP's ``models/helpers.py``, which takes ``top_k`` first.

    Example:
        >>> import torch
        >>> from tether.generation.autoregress.sampling import kept
        >>> kept(torch.tensor([0.0, 3.0, 2.0, -1.0]), top_k=3, top_p=0.7).tolist()
        [False, True, False, False]
    """
    found = torch.ones_like(logits, dtype=torch.bool)
    if 0 < top_k < logits.shape[-1]:
        found = logits >= logits.topk(top_k, dim=-1).values.amin(dim=-1, keepdim=True)
        logits = logits.masked_fill(~found, -math.inf)
    if top_p:
        rising, order = logits.sort(dim=-1)
        gone = rising.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        gone[..., -1] = False
        found = found & ~gone.scatter(-1, order, gone)
    return found


def draw(
    logits: Float[Tensor, "b l v"], *, top_k: Whole = 0, top_p: Share = 0.0, rng: torch.Generator | None = None
) -> Int[Tensor, "b l"]:
    """A codeword of each place, by chance among those ``kept``.

    Args:
        logits: of all codewords.
        top_k: see ``kept``; 1 takes the likeliest.
        top_p: see ``kept``.
        rng: draws, on its own device.
    """
    chances = logits.float().masked_fill(~kept(logits, top_k=top_k, top_p=top_p), -math.inf).softmax(dim=-1)
    device = chances.device if rng is None else rng.device
    return (
        torch.multinomial(chances.flatten(0, 1).to(device), 1, generator=rng).view(logits.shape[:2]).to(logits.device)
    )


@checked
@torch.no_grad()
def sample(
    transformer: ScaleTransformer,
    quantizer: MultiScaleQuantizer,
    cond: Float[Tensor, "b d"],
    *,
    steps: Count | None = None,
    cfg: Guidance = 2.0,
    top_k: Whole = 0,
    top_p: Share = 0.0,
    smooth: bool = False,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "b c h w"]:
    """Features of new images, one forward pass a scale; keys and values of earlier scales are kept.

    At scale k of K a text's logits count 1 + t and those without a text -t, where t = cfg * k / (K - 1).

    Args:
        transformer: see the class; no text is hidden.
        quantizer: of its codewords.
        cond: embeddings of texts.
        steps: scales that are drawn, the coarse ones first; None for all.
        cfg: see above; 0 computes no logits without a text.
        top_k: see ``kept``.
        top_p: see ``kept``.
        smooth: mix codewords by a Gumbel softmax, in place of drawing one; smoother, and further from what was learnt.
        rng: of the draws, on the CPU or the transformer's device.

    Raises:
        InputError: another quantizer, vectors of another width, or more steps than scales.

    Source: VAR-CLIP (arXiv 2408.01181), ``models/var.py``.
    """
    check_fit(transformer, quantizer)
    transformer.check_cond(cond)
    scales = len(quantizer.scales)
    if steps is not None and steps > scales:
        raise InputError(f"steps: expected at most {scales}, one a scale, got {steps}")
    rows = len(cond)
    both = torch.cat([cond, transformer.null.expand(rows, -1)]) if cfg else cond
    with eval_mode(transformer):
        about, memory, told = transformer.about(both), Memory(), None
    made: Tensor | None = None
    for scale in range(scales if steps is None else steps):
        share = scale / max(1, scales - 1)
        logits = transformer.step(about, told, level=scale, memory=memory)
        if cfg:
            logits = (1 + cfg * share) * logits[:rows] - cfg * share * logits[rows:]
        if smooth:
            found = _mixed(logits, share, top_k=top_k, top_p=top_p, rng=rng) @ quantizer.codewords
        else:
            found = quantizer.codewords[draw(logits, top_k=top_k, top_p=top_p, rng=rng)]
        made = quantizer.add(made, found, scale=scale)
        if scale < scales - 1:
            told = quantizer.told(made, scale=scale + 1).repeat(2 if cfg else 1, 1, 1)
    assert made is not None
    return made


def check_fit(transformer: ScaleTransformer, quantizer: MultiScaleQuantizer) -> None:
    """Refuse a transformer of another quantizer.

    Raises:
        InputError: other scales, or another number of codewords or channels.
    """
    theirs = (quantizer.scales, len(quantizer.codewords), quantizer.channels)
    ours = (transformer.scales, transformer.vocab, transformer.told_dim)
    for name, wanted, got in zip(("scales", "codewords", "channels"), ours, theirs, strict=True):
        if wanted != got:
            raise InputError(f"quantizer: the transformer expects {name} {wanted}, got {got}")


def _mixed(
    logits: Tensor, share: float, *, top_k: int, top_p: float, rng: torch.Generator | None
) -> Float[Tensor, "b l v"]:
    """Weights of the codewords: a Gumbel softmax that sharpens from scale to scale."""
    logits = logits.masked_fill(~kept(logits, top_k=top_k, top_p=top_p), -math.inf) * (1 + share)
    device = logits.device if rng is None else rng.device
    noise = -torch.empty(logits.shape, device=device).exponential_(generator=rng).log().to(logits.device)
    return F.softmax((logits + noise) / max(0.27 * (1 - 0.95 * share), 0.005), dim=-1)
