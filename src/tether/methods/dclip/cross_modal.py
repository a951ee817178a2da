"""DCLIP's teacher: regions of an image and words of its caption attend to each other (arXiv 2505.21549)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked


class CrossModalTeacher(nn.Module):
    """Makes of an image's regions and a caption's words one row each, richer than what the encoder gave.

    Both sides attend to the other at once, ``x' = LN(x + attention(x, other))``, then a feed-forward net, ``depth``
    times; the mean over what is real is projected and scaled to length 1. Since the image looks at its own caption, its
    row knows what is said of it: a student must learn that from the image alone.

    No code of the paper was found, so what is not said there is ours: heads and depth, rows that lose their own scale
    first, and the read-out ``beside``, which adds the projection, zero at first, to the first row of each side. So the
    teacher begins as the encoder and stays in its space, where a student's texts still fit.

    Example:
        >>> import torch
        >>> from tether.methods.dclip.cross_modal import CrossModalTeacher
        >>> teacher = CrossModalTeacher(16, heads=4)
        >>> regions, words = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
        >>> image, text = teacher(regions, torch.ones(2, 3).bool(), words, torch.ones(2, 5).bool())
        >>> image.shape, bool(torch.allclose(image, torch.nn.functional.normalize(regions[:, 0], dim=1)))
        (torch.Size([2, 16]), True)
    """

    @checked
    def __init__(
        self,
        dim: Count,
        *,
        heads: Count = 8,
        depth: Annotated[int, Ge(1), Le(64)] = 1,
        looks_at: Literal["other", "own"] = "other",
        readout: Literal["beside", "alone"] = "beside",
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            dim: of the encoder's joint space.
            heads: of each attention; must divide ``dim``.
            depth: blocks of each side.
            looks_at: ``own`` is the control: each side attends to itself, and the image knows nothing of its caption.
            readout: ``beside`` the first row of each side, or ``alone``, as the paper's words have it.
            generator: of the weights; None is the global one.

        Raises:
            InputError: heads that do not divide the width.
        """
        super().__init__()
        if dim % heads:
            raise InputError(f"heads: expected a divisor of dim={dim}, got {heads}")
        self.looks_at, self.readout = looks_at, readout
        self.image, self.text = (nn.ModuleList(_Block(dim, heads) for _ in range(depth)) for _ in range(2))
        self.project = nn.ModuleDict({side: nn.Linear(dim, dim, bias=False) for side in ("image", "text")})
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
            if readout == "beside" and name.startswith("project."):
                nn.init.zeros_(weight)

    def forward(
        self,
        region_feats: Float[Tensor, "b r d"],
        region_mask: Bool[Tensor, "b r"],
        token_feats: Float[Tensor, "b l d"],
        token_mask: Bool[Tensor, "b l"],
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Unit rows of the images and of the texts.

        Args:
            region_feats: embeddings of each image's regions, of any length but 0; the first is the whole image's.
            region_mask: True for what is a region.
            token_feats: embeddings of each text's words; the first is the whole text's.
            token_mask: True for what is a word.

        Raises:
            InputError: shapes that do not fit, or a row of a mask that is nowhere True.
        """
        sides = {"region": (region_feats, region_mask), "token": (token_feats, token_mask)}
        for name, (rows, mask) in sides.items():
            if rows.ndim != 3 or mask.dtype != torch.bool or mask.shape != rows.shape[:2]:
                expected = f"{name}_feats (b, n, d) and {name}_mask (b, n) of bool"
                raise InputError(f"expected {expected}, got {tuple(rows.shape)}, {mask.dtype} {tuple(mask.shape)}")
            empty = (~mask.any(dim=1)).nonzero()
            if len(empty):
                raise InputError(f"{name}_mask: row {int(empty[0])} is nowhere True")
        regions, words = (rows.shape[-1] ** 0.5 * F.normalize(rows, dim=2) for rows in (region_feats, token_feats))
        first = regions[:, 0], words[:, 0]
        for at_image, at_text in zip(self.image, self.text, strict=True):
            pair = ((regions, region_mask), (words, token_mask))
            seen = pair[::-1] if self.looks_at == "other" else pair
            regions, words = at_image(regions, *seen[0]), at_text(words, *seen[1])
        means = [_mean(regions, region_mask), _mean(words, token_mask)]
        found = [project(mean) for project, mean in zip(self.project.values(), means, strict=True)]
        if self.readout == "beside":
            found = [own + change for own, change in zip(first, found, strict=True)]
        image, text = (F.normalize(row, dim=1) for row in found)
        return image, text


class _Block(nn.Module):
    """Attention to some rows and a feed-forward net, each added and normalised."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, keys, keys, key_padding_mask=~mask, need_weights=False)[0])
        return self.norm2(x + self.feed_forward(x))


def _mean(rows: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b d"]:
    weights = mask[..., None].to(rows.dtype)
    return (rows * weights).sum(dim=1) / weights.sum(dim=1)
