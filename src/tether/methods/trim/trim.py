"""Patches that fit a text, and one that stands for all others (TRIM)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Part, Positive, checked

Joint = Callable[[Tensor], Tensor]
Probe = tuple[Float[Tensor, "b n d"], Float[Tensor, "b p"], Bool[Tensor, "b n"]]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What is left of each image's tokens.

    Attributes:
        tokens: (b, m, d) kept ones in their own order, then, where it is asked for, the mean of the others; zeros where
            an image has fewer.
        index: (b, k) places of the kept ones; -1 where an image has fewer.
        mask: (b, m) True where a token stands; False for the mean of none.
        scores: (b, n) of all tokens, which add up to 1; the larger, the likelier kept.
    """

    tokens: Float[Tensor, "b m d"]
    index: Int[Tensor, "b k"]
    mask: Bool[Tensor, "b m"]
    scores: Float[Tensor, "b n"]

    def __iter__(self) -> Iterator[Tensor]:
        """Tokens, their places and the mask, to be taken apart."""
        return iter((self.tokens, self.index, self.mask))


@checked
def trim_tokens(
    h: Float[Tensor, "b n d"],
    text: Float[Tensor, "b p"],
    proj: Joint | Float[Tensor, "p d"],
    post_norm: Joint,
    ratio: Part | Literal["auto"] = "auto",
    sign: Literal[1, -1, "auto"] = 1,
    normalize: bool = True,
    iqr: Positive = 1.5,
    per_image: bool = True,
    aggregate: bool = True,
    *,
    probe: Probe | None = None,
) -> Trimmed:
    """Keep the patches of images that a text is about, by CLIP's own scores; nothing is trained.

    Each token is read as the class token is, by the final norm and the projection, and compared with the text in
    float32 or wider. ``auto`` keeps the tokens whose score is an outlier among all: above the upper quartile by more
    than ``iqr`` times the distance of the quartiles, which may be none.

    Args:
        h: tokens without the class token, untouched in the result and differentiable there.
        text: one embedding an image.
        proj: from normed tokens (..., d) to the joint space (..., p); a call, or the rows of a linear map.
        post_norm: the tower's final norm.
        ratio: share that is kept, rounded down; 1 keeps all.
        sign: 1 keeps what is like the text, -1 what is unlike it, as the released code does: patches of CLIPs whose
            class token alone was trained can lie that way around. ``auto`` takes the one with which the shown tokens
            of ``probe`` have the larger mean score.
        normalize: compare by cosine; the released code takes plain products.
        iqr: of ``auto``.
        per_image: each image has its own count and quartiles; else one count for all, from all scores together.
        aggregate: the mean of the tokens that go is added as one more; without it at least one token is kept.
        probe: of ``sign="auto"``: tokens (b, n, d), texts (b, p), and (b, n) True for tokens that show what their text
            names.

    Returns:
        Tokens with their places and a mask.

    Raises:
        InputError: another number of texts than of images, no token, scores that are not finite, ``auto`` without a
            probe, or one that shows nothing or all.

    Source: arXiv 2409.10994 and FreedomIntelligence/TRIM, which is ``sign=-1, normalize=False, per_image=False``;
    its code fails where all tokens are kept, and casts to float16.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from tether.methods.trim import trim_tokens
        >>> h = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [0.0, 2.0]]])
        >>> found = trim_tokens(h, torch.tensor([[1.0, 0.0]]), proj=nn.Identity(), post_norm=nn.Identity(), ratio=0.25)
        >>> found.index.tolist(), found.tokens.shape
        ([[0]], torch.Size([1, 2, 2]))
    """
    b, n, _ = h.shape
    if isinstance(proj, Tensor):
        rows = proj

        def proj(x: Tensor) -> Tensor:
            return F.linear(x, rows)

    if sign == "auto":
        sign = _sign(probe, proj=proj, post_norm=post_norm, normalize=normalize)
    if len(text) != b:
        raise InputError(f"text: expected one for each of {b} images, got {len(text)}")
    if not n:
        raise InputError(f"h: expected at least one token an image, got {tuple(h.shape)}")
    scores = _scores(h, text, proj=proj, post_norm=post_norm, sign=sign, normalize=normalize)
    counts = _counts(scores, ratio=ratio, iqr=iqr, per_image=per_image).clamp(min=0 if aggregate else 1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(n, device=h.device).expand(b, n))
    kept = rank < counts[:, None]
    most = int(counts.max())
    place = torch.where(kept, torch.arange(n, device=h.device), n)  # in their own order, what goes behind
    index = place.sort(dim=1).values[:, :most]
    there = index < n
    tokens = h.gather(1, index.clamp(max=n - 1)[..., None].expand(-1, -1, h.shape[2]))
    tokens = torch.where(there[..., None], tokens, torch.zeros_like(tokens))
    index = index.masked_fill(~there, -1)
    if not aggregate:
        return Trimmed(tokens, index, there, scores)
    gone = (~kept).to(h.dtype)
    mean = (gone[:, None] @ h)[:, 0] / gone.sum(1, keepdim=True).clamp(min=1)
    tokens, there = torch.cat([tokens, mean[:, None]], 1), torch.cat([there, ~kept.all(1, keepdim=True)], 1)
    # The mean follows its image's last token, so that what stands there has no hole.
    settled = (~there).to(torch.uint8).argsort(dim=1, stable=True)
    tokens = tokens.gather(1, settled[..., None].expand_as(tokens))
    return Trimmed(tokens, index, there.gather(1, settled), scores)


def _sign(probe: Probe | None, *, proj: Joint, post_norm: Joint, normalize: bool) -> Literal[1, -1]:
    """The sign with which what is shown scores more: the softmax turns around with it, so one look is enough."""
    if probe is None:
        raise InputError("probe: sign='auto' needs tokens, texts and which tokens show what the text names")
    h, text, shown = probe
    if shown.shape != h.shape[:2] or bool(shown.all()) or not bool(shown.any()):
        raise InputError(f"probe: expected {tuple(h.shape[:2])} True and False, got {tuple(shown.shape)}")
    most, least = (
        _scores(h, text, proj=proj, post_norm=post_norm, sign=one, normalize=normalize)[shown].mean() for one in (1, -1)
    )
    return 1 if most >= least else -1


@torch.no_grad()
def _scores(h: Tensor, text: Tensor, *, proj: Joint, post_norm: Joint, sign: int, normalize: bool) -> Tensor:
    read, text = proj(post_norm(h)), text.detach()
    wide = torch.promote_types(read.dtype, torch.float32)
    read, text = read.to(wide), text.to(wide)
    if normalize:
        read, text = (F.normalize(x, dim=-1) for x in (read, text))
    scores = (sign * torch.einsum("bnp,bp->bn", read, text)).softmax(-1)
    if not bool(scores.isfinite().all()):
        raise InputError("h, text: give scores that are not finite; expected finite tokens and texts")
    return scores


def _counts(scores: Tensor, *, ratio: float | str, iqr: float, per_image: bool) -> Tensor:
    """(b,) how many tokens of each image are kept."""
    b, n = scores.shape
    if not isinstance(ratio, str):
        return torch.full((b,), int(n * ratio), device=scores.device)
    wide = scores.double() if per_image else scores.double().reshape(1, -1)
    low, high = torch.quantile(wide, torch.tensor([0.25, 0.75], dtype=wide.dtype, device=wide.device), dim=1)
    outliers = (wide > (high + iqr * (high - low))[:, None]).sum(1)
    if per_image:
        return outliers
    return torch.tensor(int(n * (int(outliers) / (b * n))), device=scores.device).expand(b)  # rounds as the release
