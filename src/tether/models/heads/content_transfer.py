"""Texts that bend to an image, and regions named by them, with what is none of the classes among them (MAFT+)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.models.towers.positions import sine_grid

LARGEST_SCALE = 100.0
"""What the release holds the multiplier of logits to, as CLIP does."""


class ContentDependentTransfer(nn.Module):
    """Each text looks at an image once and is changed by what it sees: ``LN(t + W a)``, or ``t + LN(W a)``.

    ``a`` is attention from texts to places, whose keys have sine positions. Texts keep no unit length: they are not
    normalised again, see ``region_text_logits``.

    Source: MAFT+ (arXiv 2408.00744) and its released code, with one layer. ``norm`` is its semantic variant, which
    changes texts from the start; ``identity`` the panoptic one, whose W starts at zero.

    Attributes:
        start: ``norm`` or ``identity``.

    Example:
        >>> import torch
        >>> from tether.models.heads.content_transfer import ContentDependentTransfer
        >>> transfer = ContentDependentTransfer(32, start="identity")
        >>> texts = torch.randn(5, 32)
        >>> torch.equal(transfer(texts, torch.randn(2, 4, 6, 32))[1], texts)
        True
    """

    @checked
    def __init__(self, dim: Count, *, heads: Count = 8, start: Literal["norm", "identity"] = "norm") -> None:
        """Make it, with weights from torch's generator.

        Args:
            dim: of texts and places; a multiple of 4 that ``heads`` divides.
            heads: of the attention.
            start: which variant.
        """
        super().__init__()
        if dim % heads or dim % 4:
            raise InputError(f"dim: expected a multiple of 4 and of heads = {heads}, got {dim}")
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.start: Literal["norm", "identity"] = start
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        if start == "identity":
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, texts: Float[Tensor, "*b t d"], image: Float[Tensor, "b r c d"]) -> Float[Tensor, "b t d"]:
        """The texts for each image.

        Args:
            texts: (t, d) for all images, or (b, t, d).
            image: rows and columns of places in the joint space, as ``dense_image`` gives them.

        Raises:
            InputError: shapes that do not fit, no text or no place.
        """
        width = self.norm.weight.shape[0]
        if image.ndim != 4 or image.shape[3] != width or 0 in image.shape:
            raise InputError(f"image: expected (b, rows, columns, {width}), got {tuple(image.shape)}")
        fits = texts.ndim in (2, 3) and texts.shape[-1] == width and 0 not in texts.shape
        if not fits or (texts.ndim == 3 and len(texts) != len(image)):
            raise InputError(f"texts: expected (t, {width}) or ({len(image)}, t, {width}), got {tuple(texts.shape)}")
        asked = texts.expand(len(image), -1, -1) if texts.ndim == 2 else texts
        values = image.flatten(1, 2)
        keys = values + sine_grid((image.shape[1], image.shape[2]), width=width).to(values)
        change = self.linear(self.attention(asked, keys, values, need_weights=False)[0])
        return self.norm(asked + change) if self.start == "norm" else asked + self.norm(change)


@checked
def region_text_logits(
    regions: Float[Tensor, "b q d"],
    texts: Float[Tensor, "b t d"],
    *,
    scale: Positive | Float[Tensor, ""],
    synonyms: Annotated[Sequence[Count], MinLen(1)] | None = None,
) -> Float[Tensor, "b q k"]:
    """``scale * region . text`` for unit regions and texts as they are; of a class's synonyms the highest counts.

    Args:
        regions: rows of any length, which are normalised.
        texts: rows, which are not.
        scale: multiplier, already exponentiated; held to 100.
        synonyms: how many rows in turn belong to each class; one row may follow, which stands for no class and stays
            last. None takes one each.

    Raises:
        InputError: shapes or counts that do not fit.
    """
    if regions.ndim != 3 or texts.ndim != 3 or len(regions) != len(texts) or regions.shape[2] != texts.shape[2]:
        raise InputError(
            f"expected regions (b, q, d) and texts (b, t, d), got {tuple(regions.shape)} and {tuple(texts.shape)}"
        )
    rest = 0 if synonyms is None else texts.shape[1] - sum(synonyms)
    if rest not in (0, 1):
        raise InputError(f"synonyms: expected {texts.shape[1]} rows in all, or one less, got {sum(synonyms or ())}")
    held = scale.clamp(max=LARGEST_SCALE) if isinstance(scale, Tensor) else min(scale, LARGEST_SCALE)
    with torch.autocast(regions.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(regions.dtype, texts.dtype), torch.float32)
        found = held * F.normalize(regions.to(dtype), dim=2) @ texts.to(dtype).mT
    if synonyms is None:
        return found
    parts = found.split([*synonyms, *[1] * rest], dim=2)
    return torch.stack([part.max(dim=2).values for part in parts], dim=2)


class RegionNamer(nn.Module):
    """Names regions by texts that are adapted to the image, or as they are.

    What belongs to no class has a learnt row of its own among the texts.

    Attributes:
        transfer: bends texts to the image; None leaves them.
        void: (1, d) row of no class, of any length.
    """

    @checked
    def __init__(self, dim: Count, *, heads: Count = 8, start: Literal["none", "norm", "identity"] = "norm") -> None:
        """Make it, with weights from torch's generator.

        Args:
            dim: of the joint space.
            heads: of the transfer.
            start: see ``ContentDependentTransfer``; ``none`` goes without.
        """
        super().__init__()
        self.settings = {"dim": dim, "heads": heads, "start": start}
        self.transfer = None if start == "none" else ContentDependentTransfer(dim, heads=heads, start=start)
        self.void = nn.Parameter(torch.randn(1, dim))

    def rows(self, texts: Float[Tensor, "t d"]) -> Float[Tensor, "u d"]:
        """The texts and, last, the row of no class, at length 1."""
        return torch.cat([texts, F.normalize(self.void, dim=1).to(texts)])

    def forward(
        self,
        regions: Float[Tensor, "b q d"],
        places: Float[Tensor, "b r c d"],
        texts: Float[Tensor, "t d"],
        *,
        scale: float | Float[Tensor, ""],
        synonyms: Sequence[int] | None = None,
    ) -> Float[Tensor, "b q k"]:
        """Logits of each region's class and, last, of none.

        Args:
            regions: in the joint space, such as means under masks that went through the tower's head.
            places: of the image in the joint space, which the transfer reads.
            texts: unit rows of the classes' synonyms.
            scale: see ``region_text_logits``.
            synonyms: likewise.
        """
        rows = self.rows(texts)
        bent = rows.expand(len(places), -1, -1) if self.transfer is None else self.transfer(rows, places)
        counts = [1] * len(texts) if synonyms is None else list(synonyms)
        return region_text_logits(regions, bent, scale=scale, synonyms=counts)
