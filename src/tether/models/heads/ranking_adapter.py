"""A small network beside a frozen encoder that orders images by a text (arXiv 2412.06760)."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, Whole, checked
from tether.models.heads.rank_attention import RankAwareAttention


class ScoredPairs(NamedTuple):
    """What the adapter says of n images.

    Attributes:
        scores: (n, 1) how high each image is.
        pair_logits: (n * n, 1), row ``i * n + j`` above 0 where image i ranks above image j. The logit of (j, i) is not
            its negative.
    """

    scores: Float[Tensor, "n 1"]
    pair_logits: Float[Tensor, "pairs 1"]


class RankingAdapter(nn.Module):
    """Scores of images by a text, and for each pair which ranks higher; only the scores are needed to order images.

    The images' tokens attend to themselves and to the text's ``n_layers`` times (pre-norm blocks), are projected, go
    through ``n_layers`` post-norm encoder layers, and give a score (the sum of the normed tokens through an MLP) and
    the pairs (``RankAwareAttention``, summed over the rank tokens, through another MLP).

    Source: arXiv 2412.06760, section 3, its released clip_model_adapter.py and configs/model-config.json, whose
    settings are the defaults. As in the release the ``n_text_tokens`` learnt prompts before the text are one number
    each, the same in all channels; ``prompts="vector"`` is the usual form. The release never initialises its
    projection, which is drawn from N(0, 1 / dim) here, and attends to the padding of texts, which ``text_mask`` leaves
    out.

    Example:
        >>> import torch
        >>> from tether.models.heads.ranking_adapter import RankingAdapter
        >>> adapter = RankingAdapter(16, n_heads=4, generator=torch.Generator().manual_seed(0)).eval()
        >>> images, text = torch.randn(3, 5, 16), torch.randn(1, 4, 16)
        >>> scores, pair_logits = adapter(images, text)
        >>> scores.shape, pair_logits.shape
        (torch.Size([3, 1]), torch.Size([9, 1]))
        >>> order, _ = adapter.rank(images, text)
        >>> bool(scores[order[0]] == scores.max())
        True
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        n_layers: Annotated[int, Ge(1), Le(64)] = 2,
        n_heads: Count = 8,
        n_rank_tokens: Count = 16,
        n_text_tokens: Whole = 32,
        prompts: Literal["scalar", "vector"] = "scalar",
        dropout: Decay = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            dim: of the images' and the text's tokens.
            n_layers: of the fusion, and of the encoder behind it.
            n_heads: of each attention; must divide ``dim``.
            n_rank_tokens: what looks at a pair.
            n_text_tokens: learnt prompts before the text.
            prompts: one number for each of them, as released, or a vector.
            dropout: of the encoder layers, in training.
            generator: of the weights; None is the global one.

        Raises:
            InputError: heads that do not divide the width.
        """
        super().__init__()
        self.attention = RankAwareAttention(dim, heads=n_heads)
        self.dim = dim
        self.seen = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, n_heads, 4 * dim, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(n_layers)
        )
        self.read = nn.ModuleList(_CrossBlock(dim, n_heads) for _ in range(n_layers))
        self.fused = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, dim, bias=False)
        layer = nn.TransformerEncoderLayer(dim, n_heads, dim, dropout, batch_first=True)
        self.after = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.text_tokens = nn.Parameter(torch.empty(n_text_tokens, 1 if prompts == "scalar" else dim))
        self.rank_tokens = nn.Parameter(torch.empty(n_rank_tokens, dim))
        self.pair_head, self.score_norm, self.score_head = PairHead(dim), nn.LayerNorm(dim), ScoreHead(dim)
        self._draw(generator)

    def forward(
        self,
        image_tokens: Float[Tensor, "n p d"],
        text_tokens: Float[Tensor, "m l d"],
        *,
        text_mask: Bool[Tensor, "m l"] | None = None,
    ) -> ScoredPairs:
        """Score n images of one group and all their ordered pairs.

        Args:
            image_tokens: of the frozen encoder, such as ``models.features.dense.dense_image``'s.
            text_tokens: of each image's text, or (1, l, d) of one for all.
            text_mask: True for what is attended to; None attends to all. The learnt prompts always are.

        Raises:
            InputError: shapes that do not fit.
        """
        x = self.fuse(image_tokens, text_tokens, text_mask=text_mask)
        return ScoredPairs(self._scores(x), self.pair_head(self.attention.summed(self.rank_tokens, x)))

    def fuse(
        self,
        image_tokens: Float[Tensor, "n p d"],
        text_tokens: Float[Tensor, "m l d"],
        *,
        text_mask: Bool[Tensor, "m l"] | None = None,
    ) -> Float[Tensor, "n p d"]:
        """The images' tokens after the text was read; arguments and errors as ``forward``."""
        seen, shape = tuple(image_tokens.shape), tuple(text_tokens.shape)
        if len(seen) != 3 or len(shape) != 3 or shape[0] not in (1, seen[0]):
            raise InputError(f"expected (n, p, d) images and (n or 1, l, d) text, got {seen} and {shape}")
        if {seen[2], shape[2]} != {self.dim} or not seen[1]:
            raise InputError(f"expected tokens of {self.dim} numbers, got {seen} and {shape}")
        if text_mask is not None and (text_mask.shape != shape[:2] or text_mask.dtype != torch.bool):
            raise InputError(f"text_mask: expected {shape[:2]} of bool, got {tuple(text_mask.shape)} {text_mask.dtype}")
        prompts = self.text_tokens.expand(shape[0], -1, self.dim)
        text = torch.cat([prompts.to(text_tokens), text_tokens], dim=1).expand(seen[0], -1, -1)
        hidden = None
        if text_mask is not None:
            hidden = F.pad(~text_mask, (prompts.shape[1], 0), value=False).expand(seen[0], -1)
        x = image_tokens
        for own, cross in zip(self.seen, self.read, strict=True):
            x = cross(own(x), text, hidden)
        return self.after(self.projection(self.fused(x)))

    def score(
        self,
        image_tokens: Float[Tensor, "n p d"],
        text_tokens: Float[Tensor, "m l d"],
        *,
        text_mask: Bool[Tensor, "m l"] | None = None,
    ) -> Float[Tensor, "n 1"]:
        """The scores alone, at a cost that grows with n; arguments and errors as ``forward``."""
        return self._scores(self.fuse(image_tokens, text_tokens, text_mask=text_mask))

    @torch.no_grad()
    def rank(
        self,
        image_tokens: Float[Tensor, "n p d"],
        text_tokens: Float[Tensor, "m l d"],
        *,
        text_mask: Bool[Tensor, "m l"] | None = None,
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Numbers of the images, the highest first and ties in their order, and the scores as they were given."""
        scores = self.score(image_tokens, text_tokens, text_mask=text_mask)[:, 0]
        return torch.argsort(scores, descending=True, stable=True), scores

    def _scores(self, x: Tensor) -> Float[Tensor, "n 1"]:
        return self.score_head(self.score_norm(x).sum(dim=1))

    def _draw(self, generator: torch.Generator | None) -> None:
        """Matrices by Xavier's rule, normal in the read-outs and uniform elsewhere; tokens and projection normal."""
        for name, weight in self.named_parameters():
            if name.startswith(("pair_head", "score_head")) and weight.ndim == 2:
                nn.init.xavier_normal_(weight, generator=generator)
            elif name in ("rank_tokens", "projection.weight"):
                nn.init.normal_(weight, std=self.dim**-0.5, generator=generator)
            elif name == "text_tokens":
                nn.init.normal_(weight, std=max(len(weight), 1) ** -0.5, generator=generator)
            elif weight.ndim == 2:
                nn.init.xavier_uniform_(weight, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)


class ScoreHead(nn.Sequential):
    """(Linear, LayerNorm, ReLU) twice, and a linear layer to one number: of tokens that are normed and summed."""

    def __init__(self, dim: int) -> None:
        """Args: dim: of the rows."""
        super().__init__(*_layers(dim), *_layers(dim), nn.Linear(dim, 1))


class PairHead(nn.Sequential):
    """A LayerNorm, (Linear, LayerNorm, ReLU) three times, and a linear layer to one number: of summed pairs."""

    def __init__(self, dim: int) -> None:
        """Args: dim: of the rows."""
        super().__init__(nn.LayerNorm(dim), *(layer for _ in range(3) for layer in _layers(dim)), nn.Linear(dim, 1))


class _CrossBlock(nn.Module):
    """Attention of the images to the text, then a feed-forward net, each after a norm and added."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_image, self.norm_text, self.norm = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, text: Tensor, hidden: Tensor | None) -> Tensor:
        keys = self.norm_text(text)
        x = x + self.attention(self.norm_image(x), keys, keys, key_padding_mask=hidden, need_weights=False)[0]
        return x + self.feed_forward(self.norm(x))


def _layers(dim: int) -> tuple[nn.Module, ...]:
    return nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU()
