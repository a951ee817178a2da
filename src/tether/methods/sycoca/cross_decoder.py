"""Decoders that look at another sequence: torch's layers with weights from a generator, and a rebuilder of patches."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.towers.patch_selection import removed_tokens
from tether.models.towers.positions import sincos_grid


def decoder_layers(layers: int, *, width: int, heads: int, generator: torch.Generator) -> nn.ModuleList:
    """``torch.nn.TransformerDecoderLayer``s that normalise first, four times as wide inside, without dropout."""
    if width % heads:
        raise InputError(f"heads: expected a divisor of width={width}, got {heads}")
    with torch.device("meta"):  # so that no global chance is used up
        found = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
    found.to_empty(device="cpu")
    for name, weight in found.named_parameters():
        if weight.ndim == 2:
            nn.init.xavier_uniform_(weight, generator=generator)
        else:
            nn.init.constant_(weight, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return found


class TextGuidedDecoder(nn.Module):
    """Rebuilds hidden patches from those that are seen and from the words of the caption (SyCoCa, arXiv 2401.02137).

    Seen patches stand in their places, one learnt vector in those of the others, and a fixed table of positions is
    added; blocks attend over all patches, then to the words. Depth, width and positions are ours, as no code was found.

    Attributes:
        patch: height and width of a patch in pixels.
        mask_token: (w,) the vector.

    Example:
        >>> import torch
        >>> from tether.methods.sycoca.cross_decoder import TextGuidedDecoder
        >>> decoder = TextGuidedDecoder(dim=16, width=32, patch=(8, 8), generator=torch.Generator().manual_seed(0))
        >>> seen, keep = torch.randn(2, 3, 16), torch.tensor([[0, 1, 3], [1, 2, 3]])
        >>> decoder(seen, torch.randn(2, 5, 16), keep=keep, grid=(2, 2)).shape
        torch.Size([2, 4, 192])
    """

    @checked
    def __init__(
        self,
        *,
        width: Count = 128,
        depth: Count = 2,
        heads: Count = 4,
        dim: int,
        patch: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            width: channels of the stream, a multiple of 4 and of ``heads``.
            depth: blocks.
            heads: of each attention.
            dim: of patches and words, in the joint space.
            patch: height and width of a patch in pixels.
            generator: of the weights.

        Raises:
            InputError: a width that is no such multiple.
        """
        super().__init__()
        if width % 4:
            raise InputError(f"width: expected a multiple of 4, got {width}")
        self.patch = patch
        self.image, self.text = (nn.utils.skip_init(nn.Linear, dim, width) for _ in range(2))
        self.mask_token = nn.Parameter(torch.empty(width))
        self.blocks = decoder_layers(depth, width=width, heads=heads, generator=generator)
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.utils.skip_init(nn.Linear, width, 3 * patch[0] * patch[1])
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)
        for layer in (self.image, self.text, self.pixels):
            nn.init.xavier_uniform_(layer.get_parameter("weight"), generator=generator)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(
        self,
        seen: Float[Tensor, "b k d"],
        words: Float[Tensor, "b l d"],
        *,
        keep: Int[Tensor, "b k"],
        grid: tuple[int, int],
        word_mask: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b n p"]:
        """Pixels of every patch; the three colours of a pixel stand together.

        Args:
            seen: patches that were not hidden, from an encoder that did not see the others.
            words: of the caption.
            keep: their places, row by row from the top left.
            grid: rows and columns of all patches.
            word_mask: True for words; None is all.

        Raises:
            InputError: patches or words of another width, or places of other patches.
        """
        dim = self.image.get_parameter("weight").shape[1]
        if seen.shape[2] != dim or words.shape[2] != dim or keep.shape != seen.shape[:2]:
            got = f"{tuple(seen.shape)}, {tuple(words.shape)} and {tuple(keep.shape)}"
            raise InputError(f"expected patches (b, k, {dim}), words (b, l, {dim}) and places (b, k), got {got}")
        count, rows = grid[0] * grid[1], self.image(seen)
        places = keep[..., None].expand(-1, -1, rows.shape[2])
        hidden = removed_tokens(keep, tokens=count)[..., None]
        x = torch.zeros(len(seen), count, rows.shape[2], dtype=rows.dtype, device=rows.device).scatter(1, places, rows)
        x = torch.where(hidden, self.mask_token.to(x.dtype), x)
        x = x + sincos_grid(grid, width=x.shape[2]).to(x)
        memory, padding = self.text(words), None if word_mask is None else ~word_mask
        for block in self.blocks:
            x = block(x, memory, memory_key_padding_mask=padding)
        return self.pixels(self.norm(x))
