"""How much an encoder's pooling token attends to each patch of an image, and the same for a part of that image."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Whole, checked
from tether.models.anatomy.find import anatomy_of
from tether.models.attention_maps import attention_maps
from tether.models.positions import Pair


@checked
def attentive_scores(maps: Float[Tensor, "b l h n"], *, prefix: Whole = 1) -> Float[Tensor, "b patches"]:
    """What a pooling token attends to, as one score for each patch: the mean over layers and heads.

    Source: arXiv 2212.08653, section 3.1, and the released code.

    Args:
        maps: attention weights of the pooling token in each layer and head, see ``attention_maps``.
        prefix: tokens before the patches, which get no score.

    Example:
        >>> import torch
        >>> from tether.models.patch_attention import attentive_scores
        >>> attentive_scores(torch.full((2, 3, 4, 17), 1 / 17)).shape
        torch.Size([2, 16])
    """
    return maps[..., prefix:].mean(dim=1).mean(dim=1)


@torch.no_grad()
def patch_attention(model: DualEncoder, image: Tensor, *, grid: Pair | None = None) -> Float[Tensor, "b patches"]:
    """``attentive_scores`` of images, without gradient.

    Args:
        model: any model of ``tether.load`` whose image tower is a plain transformer, in evaluation mode.
        image: (b, 3, h, w) as the model takes them.
        grid: rows and columns that the scores are wanted for; None, the model's own.

    Raises:
        InputError: the model is in training mode.
        UnsupportedModelError: a tower without attention weights.
    """
    tower = anatomy_of(model, "image")
    own = tower.grid(image)
    scores = attentive_scores(attention_maps(model, image).float(), prefix=tower.prefix)
    if grid is None or grid == own:
        return scores
    resized = F.interpolate(scores.unflatten(1, own)[:, None], grid, mode="bilinear", align_corners=False)
    return resized.flatten(1)


def map_scores(
    scores: Float[Tensor, "b n"], *, view: Int[Tensor, "b 4"], reference: Int[Tensor, "b 4"], grid: Pair
) -> Float[Tensor, "b n"]:
    """Scores of one cut-out of each image, for the patches of another: A-CLIP asks its teacher once for two views.

    The map is stretched to the pixels of the reference, cut out, and shrunk to the grid, each time bilinearly. What of
    a view lies outside its reference has the score 0, with a warning.

    Source: arXiv 2212.08653, section 3.1, and the released code.

    Args:
        scores: of the reference's patches, row by row.
        view: top, left, height and width of the cut-out to be scored, in pixels of the image; at least one each way.
        reference: the same of the one that was.
        grid: rows and columns of either's patches.

    Raises:
        InputError: boxes without a pixel, or scores of another number of patches.

    Example:
        >>> import torch
        >>> from tether.models.patch_attention import map_scores
        >>> reference, right = torch.tensor([[0, 0, 8, 8]]), torch.tensor([[0, 4, 8, 4]])
        >>> map_scores(torch.tensor([[1.0, 3.0, 1.0, 3.0]]), view=right, reference=reference, grid=(2, 2))
        tensor([[2.5000, 3.0000, 2.5000, 3.0000]])
    """
    if scores.shape[1] != grid[0] * grid[1]:
        raise InputError(f"scores: expected {grid[0]} x {grid[1]} for each image, got {scores.shape[1]}")
    if min(int(boxes[:, 2:].min()) for boxes in (view, reference)) < 1:
        raise InputError("view, reference: expected boxes of at least one pixel each way")
    maps, found = scores.unflatten(1, grid)[:, None], []
    for row, (own, whole) in enumerate(zip(view.tolist(), reference.tolist(), strict=True)):
        pixels = F.interpolate(maps[row : row + 1], whole[2:], mode="bilinear", align_corners=False)
        top, left, height, width = own[0] - whole[0], own[1] - whole[1], own[2], own[3]
        around = (-left, left + width - whole[3], -top, top + height - whole[2])
        if max(around) > 0:
            warnings.warn(f"view, row {row}: {own} lies partly outside its reference {whole}", stacklevel=2)
        found.append(F.interpolate(F.pad(pixels, around), grid, mode="bilinear", align_corners=False))
    return torch.cat(found).flatten(1)
