"""Embeddings of regions of an image out of its patches, by any encoder that shows them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.core.types import Features
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.find import tower_of
from tether.models.features.region_pooling import pool_boxes

Last = Literal["value", "self_correlation", "skipped", "plain"]
"""What becomes of the last block for patches: each keeps its own value (CLIPSelf, MaskCLIP); each is mixed by how
queries, keys and values are like themselves, without the stream beside (FarSLIP, SegEarth-OV); the block is skipped
(FarSLIP's plain commands); or nothing changes. A tower without open blocks, such as one of convolutions, is plain."""
Rows = Literal["unit", "raw"]
Bins = Literal["one", "grid"]
_PATHS: dict[Last, DensePath | None] = {
    "value": DensePath(),
    "self_correlation": DensePath(kind="qkv", letters="sum", residual=False, feed_forward=False),
    "skipped": None,
    "plain": None,
}


@checked
def dense_patches(model: DualEncoder, image: Tensor, *, last: Last = "value") -> Features:
    """``dense_image`` by the name of what becomes of the last block.

    Args:
        model: any that ``dense_image`` takes.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        last: see ``Last``.

    Raises:
        UnsupportedModelError: see ``dense_image``.
    """
    tower = tower_of(model)
    if tower.sealed is not None or not tower.blocks:
        return dense_image(model, image)
    return dense_image(model, image, path=_PATHS[last], layer=-2 if last == "skipped" and len(tower.blocks) > 1 else -1)


@checked
def pooled_patches(
    model: DualEncoder,
    tokens: Float[Tensor, "b n d"],
    boxes: Float[Tensor, "b r 4"],
    *,
    image: Tensor,
    valid: Bool[Tensor, "b r"] | None = None,
    rows: Rows = "unit",
    bins: Bins = "one",
) -> Float[Tensor, "b r d"]:
    """``pool_boxes`` of what ``dense_patches`` gave of the same images.

    Args:
        model: that gave them.
        tokens: of the images.
        boxes: x0, y0, x1, y1 in shares of the image, 0 to 1.
        image: the images, for the grid of their patches.
        valid: see ``pool_boxes``.
        rows: ``unit`` patches (CLIPSelf), or ``raw`` ones, of which long ones weigh more (FarSLIP).
        bins: each box is ``one``, or is cut as the whole image's ``grid`` is (FarSLIP).

    Raises:
        InputError: see ``pool_boxes``.
    """
    side = int(tokens.shape[1] ** 0.5)
    grid = (side, side)
    if side * side != tokens.shape[1] or image.shape[2] != image.shape[3]:
        with torch.no_grad():
            grid = tower_of(model).grid(image)
    given = F.normalize(tokens, dim=2) if rows == "unit" else tokens
    return pool_boxes(given, boxes, grid=grid, valid=valid, bins=1 if bins == "one" else grid)


@checked
def encode_boxes(
    model: DualEncoder,
    image: Tensor,
    boxes: Float[Tensor, "b r 4"],
    *,
    valid: Bool[Tensor, "b r"] | None = None,
    last: Last = "value",
    rows: Rows = "unit",
    bins: Bins = "one",
) -> Float[Tensor, "b r d"]:
    """One embedding for each box of each image, not normalised, with gradient; the image is read once.

    Args:
        model: any that ``dense_image`` takes.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        boxes: see ``pooled_patches``.
        valid: see ``pool_boxes``.
        last: see ``Last``.
        rows: see ``pooled_patches``.
        bins: likewise.

    Raises:
        UnsupportedModelError: a model whose image tower shows neither tokens nor a map.
        InputError: boxes that are not inside the image or have no area.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.dense_regions import encode_boxes
        >>> boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 1.0]]])
        >>> encode_boxes(create("tiny").eval(), torch.rand(1, 3, 32, 32), boxes).shape
        torch.Size([1, 2, 64])
    """
    tokens = dense_patches(model, image, last=last).tokens
    assert tokens is not None  # dense_image gives them
    return pooled_patches(model, tokens, boxes, image=image, valid=valid, rows=rows, bins=bins)
