"""Maps of patches made better by what patches attend to, and maps of pixels by which pixels look alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Positive, Share, Whole, checked
from tether.data.dense_labels import IGNORED

DILATIONS = (1, 2, 4, 8, 12, 24)


def mean_attention(
    attention: Float[Tensor, "l n n"], *, affinity: Float[Tensor, "n n"] | None = None
) -> Float[Tensor, "n n"]:
    """The mean of some blocks' attention over patches.

    Args:
        attention: of each block, over the heads.
        affinity: learnt; then blocks whose attention exceeds it by more than the mean of all blocks are left out, and
            the mean is multiplied by it.

    Raises:
        InputError: shapes that do not fit.
    """
    if attention.ndim != 3 or (affinity is not None and affinity.shape != attention.shape[1:]):
        raise InputError(f"attention: expected (l, n, n) and an affinity (n, n), got {tuple(attention.shape)}")
    if affinity is None:
        return attention.mean(dim=0)
    apart = (attention - affinity).flatten(1).sum(dim=1)
    return attention[apart <= apart.mean()].mean(dim=0) * affinity


@checked
def transition(attention: Float[Tensor, "n n"], *, rounds: Whole = 3, power: Count = 2) -> Float[Tensor, "n n"]:
    """Attention brought near to what gives as much as it takes, symmetric, so many steps at once.

    Source: ExCEL (arXiv 2503.20826), as in its released code.

    Args:
        attention: not negative; float64 is right for large n. A row or column of zeros stays one.
        rounds: of dividing columns, and then rows, by their sums.
        power: steps.

    Raises:
        InputError: another shape.
    """
    if attention.ndim != 2 or attention.shape[0] != attention.shape[1]:
        raise InputError(f"attention: expected (n, n), got {tuple(attention.shape)}")
    found = attention
    for _ in range(rounds):
        for dim in (0, 1):
            sums = found.sum(dim=dim, keepdim=True)
            found = found / sums.where(sums > 0, torch.ones_like(sums))
    found = (found + found.T) / 2
    return torch.linalg.matrix_power(found, power)


def high_boxes(one: Float[Tensor, "r c"], *, above: float) -> Bool[Tensor, "r c"]:
    """Inside the boxes around the connected pieces of a map that exceed a share of its maximum."""
    from scipy import ndimage

    high = (one > above * one.max()).cpu().numpy()
    pieces, _ = ndimage.label(high, structure=np.ones((3, 3)))
    found = np.zeros_like(high)
    for piece in ndimage.find_objects(pieces):
        found[piece] = True
    return torch.from_numpy(found).to(one.device)


@checked
def attention_refine(
    maps: Float[Tensor, "k r c"], attention: Float[Tensor, "n n"], *, above: Share | None = 0.79
) -> Float[Tensor, "k r c"]:
    """Each map spread along the attention of its image's patches, from inside the boxes where it is high.

    Source: ExCEL (arXiv 2503.20826), section 3.4, and its released code.

    Args:
        maps: of classes that are there.
        attention: of the patches, see ``mean_attention``.
        above: share of a map's maximum that the boxes are drawn around; None spreads from everywhere.

    Raises:
        InputError: attention of other patches.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.map_refinement import attention_refine
        >>> alike = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> attention_refine(torch.tensor([[[1.0, 0.0, 0.1]]]), alike)
        tensor([[[0.5000, 0.5000, 0.0000]]])
    """
    if maps.ndim != 3 or tuple(attention.shape) != (maps[0].numel(),) * 2:
        raise InputError(f"attention: expected one of the {maps[0].numel()} patches, got {tuple(attention.shape)}")
    steps = transition(attention.double()).to(maps)
    found = []
    for one in maps:
        inside = torch.ones_like(one) if above is None else high_boxes(one, above=above).to(maps)
        found.append((steps @ (inside * one).flatten()).unflatten(0, one.shape))
    return torch.stack(found)


def stretched(maps: Float[Tensor, "*s"], *, dim: int | tuple[int, ...]) -> Float[Tensor, "*s"]:
    """Maps over these dimensions, each from 0 at its least to 1 at its most; 0 where one is flat but for rounding."""
    least, most = maps.amin(dim=dim, keepdim=True), maps.amax(dim=dim, keepdim=True)
    room = most - least
    varies = room > 16 * torch.finfo(maps.dtype).eps * torch.maximum(least.abs(), most.abs())
    return torch.where(varies, (maps - least) / room.where(varies, torch.ones_like(room)), 0)


@checked
def pixel_refine(
    image: Float[Tensor, "3 h w"],
    maps: Float[Tensor, "k r c"],
    *,
    rounds: Whole = 10,
    dilations: Annotated[Sequence[Count], MinLen(1)] = DILATIONS,
    colour: Positive = 0.3,
    place: NonNegative = 0.01,
) -> Float[Tensor, "k h w"]:
    """Maps enlarged to an image, and averaged over neighbours that look alike, again and again: pixel-adaptive.

    Source: PAR of AFA (arXiv 2203.02664), section 3.3, as ExCEL (arXiv 2503.20826) has it.

    Args:
        image: pixels on any scale.
        maps: of any size.
        rounds: of averaging.
        dilations: how far the eight neighbours lie, each.
        colour: differences of colour are measured in this share of their spread around a pixel.
        place: how much nearness counts beside likeness.

    Raises:
        InputError: an image or maps of another shape.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.map_refinement import pixel_refine
        >>> image = torch.zeros(3, 8, 8)
        >>> image[:, :, 4:] = 1  # two halves
        >>> found = pixel_refine(image, torch.tensor([[[0.9, 0.1]]]), dilations=[1, 2])
        >>> found[0, 0, [0, 3, 4, 7]] > 0.5
        tensor([ True,  True, False, False])
    """
    if image.ndim != 3 or image.shape[0] != 3 or maps.ndim != 3:
        raise InputError(f"image: expected (3, h, w) and maps (k, r, c), got {tuple(image.shape)}, {tuple(maps.shape)}")
    found = F.interpolate(maps[None], tuple(image.shape[1:]), mode="bilinear", align_corners=True)[0]
    around = _neighbours(image.to(maps), dilations)
    apart = (around - image.to(maps)[:, None]).abs() / (around.std(dim=1, keepdim=True) + 1e-8) / colour
    alike = (-(apart**2)).mean(dim=0).softmax(dim=0)
    far = torch.tensor([step * (2**0.5 if corner else 1) for step in dilations for corner in _CORNERS]).to(maps)
    spread = far.std() if len(far) > 1 else torch.ones(())
    near = (-((far / (spread + 1e-8) / colour) ** 2)).softmax(dim=0)
    weights = alike + place * near[:, None, None]
    for _ in range(rounds):
        found = (_neighbours(found, dilations) * weights).sum(dim=1)
    return found


@checked
def pseudo_labels(
    maps: Float[Tensor, "k r c"],
    image: Float[Tensor, "3 h w"],
    *,
    present: Sequence[int],
    low: Share = 0.25,
    high: Share = 0.7,
    rounds: Whole = 10,
) -> Int[Tensor, "h w"]:
    """Labels of an image to learn from: a class where it is sure, 0 where nothing is, 255 in between.

    Source: ExCEL (arXiv 2503.20826), as AFA (arXiv 2203.02664) does it.

    Args:
        maps: of all classes, 0 to 1.
        image: its pixels.
        present: numbers of the classes that the image is known to have, from 0.
        low: value of a map below which nothing is there.
        high: above which it is sure.
        rounds: of ``pixel_refine``.

    Returns:
        (h, w) 0 for the background, n + 1 for class n, 255 for nothing to learn from.

    Raises:
        InputError: a class that there is not, or ``low`` above ``high``.

    Example:
        >>> import torch
        >>> from tether.methods.excel_wsss.map_refinement import pseudo_labels
        >>> pseudo_labels(torch.tensor([[[0.0, 0.5, 1.0]]]), torch.zeros(3, 1, 3), present=[0], rounds=0)
        tensor([[  0, 255,   1]])
    """
    if low > high:
        raise InputError(f"low: expected at most high, {high}, got {low}")
    if strange := [number for number in present if not 0 <= number < len(maps)]:
        raise InputError(f"present: expected classes 0 to {len(maps) - 1}, got {strange[0]}")
    numbers = torch.tensor([0, *(number + 1 for number in present)], device=maps.device)
    bars = torch.tensor([high, low]).to(maps)[:, None, None].expand(-1, *maps.shape[1:])
    refined = pixel_refine(image, torch.cat([bars, maps[list(present)]]), rounds=rounds)
    sure, any_ = (numbers[torch.cat([refined[n : n + 1], refined[2:]]).argmax(dim=0)] for n in (0, 1))
    return sure.masked_fill(sure == 0, IGNORED).masked_fill((sure == 0) & (any_ == 0), 0)


_CORNERS = (True, False, True, False, False, True, False, True)


def _neighbours(x: Float[Tensor, "k h w"], dilations: Sequence[int]) -> Float[Tensor, "k m h w"]:
    """The eight neighbours at each distance; beyond the edge the edge."""
    (height, width), found = x.shape[1:], []
    for step in dilations:
        wide = F.pad(x[None], (step,) * 4, mode="replicate")[0]
        found += [
            wide[:, step + down : step + down + height, step + right : step + right + width]
            for down in (-step, 0, step)
            for right in (-step, 0, step)
            if down or right
        ]
    return torch.stack(found, dim=1)
