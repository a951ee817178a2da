"""How much an encoder's pooling token attends to each patch of an image, and the same for a part of that image."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Whole, checked
from tether.core.types import Features
from tether.models.features.attention_maps import maps_and_stream
from tether.models.features.find import anatomy_of
from tether.models.features.penultimate import read_state
from tether.models.towers.positions import Pair


@checked
def attentive_scores(maps: Float[Tensor, "b l h n"], *, prefix: Whole = 1) -> Float[Tensor, "b patches"]:
    """What a pooling token attends to, as one score for each patch: the mean over layers and heads.

    Source: arXiv 2212.08653, section 3.1, and the released code.

    Args:
        maps: attention weights of the pooling token in each layer and head, see ``attention_maps``.
        prefix: tokens before the patches, which get no score.

    Example:
        >>> import torch
        >>> from tether.models.features.patch_attention import attentive_scores
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
    scores, own = attended(model, image).scores, anatomy_of(model, "image").grid(image)
    if grid is None or grid == own:
        return scores
    resized = F.interpolate(scores.unflatten(1, own)[:, None], grid, mode="bilinear", align_corners=False)
    return resized.flatten(1)


class Attended(NamedTuple):
    """One look of an encoder at images.

    Attributes:
        features: the embeddings, and what they are projected from, see ``image_state``.
        scores: (b, patches) ``attentive_scores`` on the encoder's own grid.
    """

    features: Features
    scores: Float[Tensor, "b patches"]


@torch.no_grad()
def attended(model: DualEncoder, image: Tensor) -> Attended:
    """``image_state``, and ``patch_attention`` on the model's own grid, from one forward; see there for arguments."""
    tower = anatomy_of(model, "image")
    maps, stream = maps_and_stream(model, image)
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return Attended(read_state(tower, stream), attentive_scores(wide, prefix=tower.prefix))


def scores_in_view(
    scores: Float[Tensor, "b n"],
    *,
    own: Pair,
    grid: Pair,
    view: Float[Tensor, "b 4"],
    reference: Float[Tensor, "b 4"],
    view_flipped: Bool[Tensor, " b"],
    reference_flipped: Bool[Tensor, " b"],
) -> Float[Tensor, "b m"]:
    """``map_scores`` for boxes in shares of the image, either view mirrored or not, a whole batch at once.

    The map is read bilinearly at the centre of each of the view's patches, which is what stretching it to ever more
    pixels comes to. A patch whose centre lies outside the reference has the score 0, with a warning (on the CPU).

    Args:
        scores: of the reference's patches, row by row.
        own: rows and columns of the reference's patches.
        grid: rows and columns of the view's.
        view: x0, y0, x1, y1 of the view, as a batch's ``NAME_box``.
        reference: the same of the one that was scored.
        view_flipped: whether left and right of the view are exchanged.
        reference_flipped: the same of the reference.

    Example:
        >>> import torch
        >>> from tether.models.features.patch_attention import scores_in_view
        >>> whole, right = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.5, 0.0, 1.0, 1.0]])
        >>> boxes = {"view": right, "reference": whole, "view_flipped": torch.tensor([True])}
        >>> boxes["reference_flipped"] = torch.tensor([False])
        >>> scores_in_view(torch.tensor([[1.0, 3.0]]), own=(1, 2), grid=(1, 2), **boxes)
        tensor([[3.0000, 2.5000]])
    """
    if scores.shape[1] != own[0] * own[1]:
        raise InputError(f"scores: expected {own[0]} x {own[1]} for each image, got {scores.shape[1]}")
    places, wide = [], torch.promote_types(scores.dtype, torch.float32)
    for axis, (count, mirrored) in enumerate(((grid[1], True), (grid[0], False))):
        place = (torch.arange(count, dtype=wide, device=scores.device) + 0.5) / count
        place = place.expand(len(scores), -1)
        if mirrored:
            place = torch.where(view_flipped[:, None], 1 - place, place)
        (first, last), (start, end) = ((box[:, axis, None], box[:, axis + 2, None]) for box in (view, reference))
        place = (first + place * (last - first) - start) / (end - start)
        if mirrored:
            place = torch.where(reference_flipped[:, None], 1 - place, place)
        places.append(2 * place.to(scores.dtype) - 1)
    across, down = places[0][:, None].expand(-1, *grid), places[1][:, :, None].expand(-1, *grid)
    maps, at = scores.unflatten(1, own)[:, None], torch.stack([across, down], dim=3)
    found = F.grid_sample(maps, at, padding_mode="border", align_corners=False)[:, 0]
    outside = at.abs().amax(dim=3) > 1
    if outside.device.type == "cpu" and outside.any():
        row = int(outside.nonzero()[0, 0])
        warnings.warn(f"view, row {row}: {view[row].tolist()} lies partly outside its reference", stacklevel=2)
    return found.masked_fill(outside, 0.0).flatten(1)


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
        >>> from tether.models.features.patch_attention import map_scores
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
        apart = min(top + height, left + width, whole[2] - top, whole[3] - left) <= 0
        pixels = pixels.new_zeros(1, 1, *grid) if apart else F.pad(pixels, around)
        found.append(F.interpolate(pixels, grid, mode="bilinear", align_corners=False))
    return torch.cat(found).flatten(1)
