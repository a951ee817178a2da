"""Boxes of an image painted over with what lies around them, for instance to take rendered text away."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import checked

Fill = Literal["smooth", "border"]
FILLS: tuple[Fill, ...] = get_args(Fill)


@checked
def fill_boxes(
    pixels: UInt8[Tensor, "3 h w"], boxes: Int[np.ndarray, "n 4"], *, fill: Fill = "smooth"
) -> UInt8[Tensor, "3 h w"]:
    """A copy in which the boxes show what their surroundings let expect.

    Args:
        pixels: (3, h, w) uint8.
        boxes: (n, 4) x0, y0, x1, y1 in pixels, the last two exclusive; what lies outside the image is cut off.
        fill: ``smooth`` continues the surroundings without any bend (a harmonic function: each pixel is the mean of its
            neighbours); ``border`` paints each box in the mean colour of the pixels around it, and is quicker.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3:
        raise InputError(f"expected uint8 pixels (3, h, w), got {pixels.dtype} {tuple(pixels.shape)}")
    height, width = pixels.shape[1:]
    inside = boxes_within(boxes, height=height, width=width)
    if not len(inside):
        return pixels.clone()
    mask = mask_of(inside, height=height, width=width)
    values = pixels.permute(1, 2, 0).contiguous().numpy().astype(np.float64)
    if mask.all():
        values[:] = values.mean(axis=(0, 1))
    elif fill == "smooth":
        _smooth(values, mask)
    else:
        _border(values, mask, inside)
    return torch.from_numpy(np.round(values).astype(np.uint8)).permute(2, 0, 1).contiguous()


def boxes_within(boxes: Int[np.ndarray, "n 4"], *, height: int, width: int) -> Int[np.ndarray, "m 4"]:
    """The boxes cut to the image; those with nothing in it are left out."""
    given = np.asarray(boxes)
    if given.size == 0:
        return np.zeros((0, 4), np.int64)
    if given.ndim != 2 or given.shape[1] != 4 or given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise InputError(f"boxes: expected (n, 4) finite x0, y0, x1, y1, got {given.dtype} {given.shape}")
    if (given[:, 2:] < given[:, :2]).any():
        raise InputError(
            f"boxes: a box ends before it begins: {given[(given[:, 2:] < given[:, :2]).any(1)][0].tolist()}"
        )
    low, high = np.floor(given[:, :2]), np.ceil(given[:, 2:])
    cut = np.concatenate([low.clip(0, (width, height)), high.clip(0, (width, height))], axis=1).astype(np.int64)
    return cut[(cut[:, 2:] > cut[:, :2]).all(axis=1)]


def mask_of(boxes: Int[np.ndarray, "n 4"], *, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Where boxes inside the image lie."""
    mask = np.zeros((height, width), np.bool_)
    for x0, y0, x1, y1 in boxes.tolist():
        mask[y0:y1, x0:x1] = True
    return mask


def _border(values: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], boxes: Int[np.ndarray, "n 4"]) -> None:
    before = values.copy()
    whole = before[~mask].mean(axis=0)
    for x0, y0, x1, y1 in boxes.tolist():
        ring = np.zeros_like(mask)
        ring[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
        ring &= ~mask  # the pixels of another box say nothing about what lies under this one
        values[y0:y1, x0:x1] = before[ring].mean(axis=0) if ring.any() else whole


def _smooth(values: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> None:
    """Solve for each unknown pixel being the mean of its neighbours in the image."""
    from scipy.sparse import coo_matrix, diags
    from scipy.sparse.linalg import splu

    number = np.full(mask.shape, -1, np.int64)
    number[mask] = np.arange(mask.sum())
    rows, columns, degree = [], [], np.zeros(mask.sum())
    known = np.zeros((len(degree), 3))
    for axis in (0, 1):
        for first, second in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            here = (first, slice(None)) if axis == 0 else (slice(None), first)
            there = (second, slice(None)) if axis == 0 else (slice(None), second)
            own, other = number[here], number[there]
            asked = own >= 0
            np.add.at(degree, own[asked], 1)
            both = asked & (other >= 0)
            rows.append(own[both])
            columns.append(other[both])
            edge = asked & (other < 0)
            np.add.at(known, own[edge], values[there][edge])
    row, column = np.concatenate(rows), np.concatenate(columns)
    between = coo_matrix((np.ones(len(row)), (row, column)), shape=(len(degree), len(degree)))
    values[mask] = splu((diags(degree) - between).tocsc()).solve(known).clip(0, 255)
