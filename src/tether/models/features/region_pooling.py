"""One embedding for each region of an image, out of a map of patches: boxes by RoI align, masks by their mean."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import roi_align

from tether.core.errors import InputError
from tether.core.ranges import Number, checked

Bins = Annotated[int, Ge(1)]


@checked
def pool_boxes(
    tokens: Tensor,
    boxes: Float[Tensor, "b r 4"],
    *,
    grid: tuple[Bins, Bins] | None = None,
    valid: Bool[Tensor, "b r"] | None = None,
    bins: Bins | tuple[Bins, Bins] = 1,
    samples: Bins | Literal["adaptive"] = "adaptive",
) -> Float[Tensor, "b r d"]:
    """The mean of a map inside boxes, by RoI align (arXiv 1703.06870, half a pixel moved as in Detectron2).

    Nothing is normalised: give a map of unit rows for CLIPSelf, raw tokens for FarSLIP, and normalise what comes out.

    Args:
        tokens: (b, h, w, d) map, or (b, n, d) tokens row by row from the top left.
        boxes: x0, y0, x1, y1 in shares of the image's width and height, 0 to 1.
        grid: rows and columns of ``tokens`` (b, n, d); None is a square.
        valid: which of the boxes are regions; the others are not looked at and give zeros. With it nothing is read
            from the device: what comes from ``tether.data.loader`` was checked there. None looks at every box.
        bins: rows and columns that each box is cut into; the mean over all of them is given.
        samples: points of a bin on each axis; ``adaptive`` takes one for each patch it covers, at least one.

    Raises:
        InputError: shapes that do not fit, or without ``valid`` a box that is not inside the image or has no area; it
            names the row and the box.

    Example:
        >>> import torch
        >>> from tether.models.features.region_pooling import pool_boxes
        >>> tokens = torch.arange(16.0).view(1, 4, 4, 1)  # a map of 4 x 4
        >>> pool_boxes(tokens, torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]])).flatten().tolist()
        [2.5, 12.5]
    """
    grid_map = _map_of(tokens, grid)
    batch, height, width, dim = grid_map.shape
    boxes = checked_boxes(boxes, batch=batch, valid=valid)
    exact = torch.promote_types(grid_map.dtype, torch.float32)  # half precision is too coarse for the corners
    with torch.autocast(tokens.device.type, enabled=False):
        corners = boxes.to(exact) * boxes.new_tensor([width, height, width, height], dtype=exact)
        rows = torch.arange(batch, device=boxes.device, dtype=exact).repeat_interleave(boxes.shape[1])
        rois = torch.cat([rows[:, None], corners.flatten(0, 1)], dim=1)
        channels = grid_map.to(exact).permute(0, 3, 1, 2).contiguous()
        ratio = -1 if samples == "adaptive" else samples
        found = roi_align(channels, rois, bins, spatial_scale=1.0, sampling_ratio=ratio, aligned=True)
    pooled = found.mean(dim=(2, 3)).to(tokens.dtype).view(batch, -1, dim)
    return pooled if valid is None else pooled * valid[..., None]


@checked
def pool_masks(
    tokens: Tensor,
    masks: Tensor,
    *,
    grid: tuple[Bins, Bins] | None = None,
    valid: Bool[Tensor, "b r"] | None = None,
    resize: Literal["area", "bilinear"] = "area",
    above: Number | None = None,
) -> Float[Tensor, "b r d"]:
    """The mean of a map inside masks, each patch counted by the share of it that the mask covers.

    Nothing is normalised, and masks get no gradient.

    Args:
        tokens: (b, h, w, d) map, or (b, n, d) tokens row by row from the top left.
        masks: (b, r, H, W) of any size: bool, numbers of at least 0, or with ``above`` any, such as logits.
        grid: rows and columns of ``tokens`` (b, n, d); None is a square.
        valid: which of the masks are regions; the others give zeros, and so does one without area. With it nothing is
            read from the device. None looks at every mask.
        resize: how a mask gets the size of the grid: the mean over each patch, or between the nearest four pixels.
        above: patches whose resized mask is above this number count whole and the others not (a hard mask); None
            counts shares (a soft one). MAFT+ has ``resize="bilinear", above=0.0`` on logits.

    Raises:
        InputError: shapes that do not fit, or without ``valid`` a mask without area; it names the row and the mask.

    Example:
        >>> import torch
        >>> from tether.models.features.region_pooling import pool_masks
        >>> tokens = torch.arange(4.0).view(1, 4, 1)  # a map of 2 x 2
        >>> mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        >>> mask[..., :4, :6] = True  # the first patch, and half of the second
        >>> round(pool_masks(tokens, mask).item(), 6), pool_masks(tokens, mask, above=0.4).item()
        (0.333333, 0.5)
    """
    grid_map = _map_of(tokens, grid)
    batch, height, width, _ = grid_map.shape
    _check_tensor("masks", masks, "0 outside of each region")
    if masks.ndim != 4 or masks.shape[0] != batch or 0 in masks.shape[2:]:
        raise InputError(f"masks: expected ({batch}, regions, height, width), got {tuple(masks.shape)}")
    if valid is not None:
        _check_valid(valid, masks.shape[:2])
    exact = torch.promote_types(grid_map.dtype, torch.float32)
    with torch.autocast(tokens.device.type, enabled=False):
        weights = masks.detach().to(exact)
        if weights.shape[2:] != (height, width):
            weights = F.interpolate(weights, (height, width), mode=resize)
        if above is not None:
            weights = (weights > above).to(exact)
        area = weights.sum(dim=(2, 3))
        if valid is None:
            _refuse(
                ~(area > 0) | ~(weights >= 0).all(dim=(2, 3)), "masks: expected something inside, and nothing below 0"
            )
        weights = weights / area.clamp_min(torch.finfo(exact).tiny)[..., None, None]
        pooled = torch.einsum("brhw,bhwd->brd", weights, grid_map.to(exact)).to(tokens.dtype)
    return pooled if valid is None else pooled * valid[..., None]


def checked_boxes(boxes: Tensor, *, batch: int, valid: Tensor | None) -> Float[Tensor, "b r 4"]:
    """Boxes of a batch, held to what ``pool_boxes`` says of them; where not valid the whole image."""
    _check_tensor("boxes", boxes, "x0, y0, x1, y1 in shares of the image")
    if boxes.ndim != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
        raise InputError(f"boxes: expected ({batch}, regions, 4), got {tuple(boxes.shape)}")
    if valid is None:
        _check_boxes(boxes)
        return boxes
    _check_valid(valid, boxes.shape[:2])
    return torch.where(valid[..., None], boxes, boxes.new_tensor([0.0, 0.0, 1.0, 1.0]))


def _map_of(tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(b, h, w, d) floats."""
    _check_tensor("tokens", tokens, "such as dense_image(...).tokens")
    if not tokens.is_floating_point() or tokens.ndim not in (3, 4) or 0 in tokens.shape[1:]:
        raise InputError(f"tokens: expected floats (b, h, w, d) or (b, n, d), got {tokens.dtype} {tuple(tokens.shape)}")
    if tokens.ndim == 4:
        if grid is not None and grid != tuple(tokens.shape[1:3]):
            raise InputError(f"grid: the map has {tuple(tokens.shape[1:3])} rows and columns, got {grid}")
        return tokens
    count = tokens.shape[1]
    side = int(count**0.5)
    rows, columns = (side, side) if grid is None else grid
    if rows * columns != count:
        raise InputError(f"grid: expected rows and columns of {count} tokens, got {grid or 'none, and no square'}")
    return tokens.unflatten(1, (rows, columns))


def _check_valid(valid: Tensor, shape: torch.Size) -> None:
    if valid.dtype != torch.bool or valid.shape != shape:
        raise InputError(f"valid: expected bool {tuple(shape)}, got {valid.dtype} {tuple(valid.shape)}")


def _check_boxes(boxes: Tensor) -> None:
    inside = ((boxes >= 0) & (boxes <= 1)).all(dim=2)
    expected = "boxes: expected 0 <= x0 < x1 <= 1 and so for y, in shares of the image's width and height"
    _refuse(~inside | ~(boxes[..., 2:] > boxes[..., :2]).all(dim=2), expected, of=boxes)


def _check_tensor(name: str, value: object, example: str) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected a tensor, {example}; got {type(value).__name__}")


def _refuse(wrong: Tensor, message: str, *, of: Tensor | None = None) -> None:
    """Name the first of (b, r) that is wrong, and what stands there."""
    if bool(wrong.any()):
        row, region = wrong.nonzero()[0].tolist()
        got = "" if of is None else f": {[round(value, 4) for value in of[row, region].tolist()]}"
        raise InputError(f"{message}; wrong in row {row}, region {region}{got}")
