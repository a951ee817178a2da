"""What an image and a text cost to encode: tokens, and operations of the towers' matrices."""

from __future__ import annotations

from dataclasses import dataclass

from tether.core.errors import InputError
from tether.core.ranges import Count, Part, Positive, Whole, checked
from tether.models.towers.patch_selection import CountRule, kept_count
from tether.models.towers.positions import Pair


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Of one forward of one pair.

    Attributes:
        image_tokens: that the image tower sees, its class token among them.
        text_tokens: that the text tower sees.
        image_operations: of its blocks, two for each product.
        text_operations: likewise.
    """

    image_tokens: int
    text_tokens: int
    image_operations: float
    text_operations: float

    @property
    def operations(self) -> float:
        """Of both towers."""
        return self.image_operations + self.text_operations


@checked
def patch_grid(image_size: Count | tuple[Count, Count], *, patch: Count) -> Pair:
    """Rows and columns of an image's patches.

    Args:
        image_size: pixels of a side, or height and width.
        patch: side of a patch in pixels.

    Raises:
        InputError: a size that is no multiple of the patch.
    """
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if height % patch or width % patch:
        raise InputError(f"image_size: expected multiples of the patch, {patch}, got {height} x {width}")
    return height // patch, width // patch


@checked
def block_operations(tokens: Whole, *, width: Count, hidden: Count, feeds: Count = 2) -> float:
    """Operations of one transformer block on one sequence: its matrices and attention, two for each product.

    Args:
        tokens: of the sequence.
        width: of the stream.
        hidden: width of the feed-forward net.
        feeds: its matrices, 3 with SwiGLU.
    """
    return 2 * (4 * width**2 + feeds * width * hidden) * tokens + 4 * tokens**2 * width


@checked
def token_cost(
    *,
    image_size: Count | tuple[Count, Count],
    patch: Count,
    text_length: Whole,
    image_depth: Whole,
    image_width: Count,
    text_depth: Whole,
    text_width: Count,
    keep_patches: Part = 1.0,
    rule: CountRule = "round",
    mlp_ratio: Positive = 4.0,
) -> TokenCost:
    """What a pair costs under a schedule of tokens, before anything is built (CLIPA-v2, arXiv 2306.15658).

    Blocks alone are counted, which is nearly all; a training step takes three forwards. The views of a run are counted
    by ``tether train --dry-run``.

    Args:
        image_size: pixels of a side, or height and width; multiples of the patch.
        patch: side of a patch in pixels.
        text_length: tokens of a text.
        image_depth: blocks of the image tower.
        image_width: of its stream.
        text_depth: blocks of the text tower.
        text_width: of its stream.
        keep_patches: share of the patches that is seen, 1 - the ratio of a mask.
        rule: how the share becomes a number, see ``kept_count``; CLIPA's codes truncate.
        mlp_ratio: width of the feed-forward nets, as a multiple of the stream's.

    Example:
        >>> from tether.models.towers.cost import token_cost
        >>> tower = dict(patch=14, image_depth=32, image_width=1280, text_depth=24, text_width=1024, rule="truncate")
        >>> short = token_cost(image_size=84, text_length=8, **tower)
        >>> tuned = token_cost(image_size=224, text_length=32, keep_patches=0.7, **tower)
        >>> short.image_tokens, tuned.image_tokens, round(tuned.operations / short.operations, 1)
        (37, 180, 4.9)
    """
    down, across = patch_grid(image_size, patch=patch)
    seen = 1 + kept_count(down * across, keep=keep_patches, rule=rule)
    sides = ((seen, image_depth, image_width), (text_length, text_depth, text_width))
    image, text = (
        depth * block_operations(tokens, width=width, hidden=max(1, round(mlp_ratio * width)))
        for tokens, depth, width in sides
    )
    return TokenCost(seen, text_length, image, text)
