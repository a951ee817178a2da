"""Maps of cross-attention over the frames of a clip: fused, put into an edit, and read as masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Share, Whole, checked

LEAST = 1e-6
"""Least range of a map, and least sum of a row, that is divided by."""


@checked
def fuse_frames(maps: Tensor, w: Share = 0.5) -> Float[Tensor, "f h n t"]:
    """Each frame's maps mixed with those of the frame before; the first frame's with themselves.

    Args:
        maps: (f, h, n, t), one row of weights over tokens for each frame, head and pixel.
        w: share of the frame before. What is mixed in are the maps as given, never mixed ones.

    Raises:
        InputError: one frame alone with ``w`` above 0, or maps of another shape.

    Source: arXiv 2311.11697 (its abstract; the rule and its share are ours).

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste.attention_maps import fuse_frames
        >>> maps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).view(3, 1, 1, 2)
        >>> fuse_frames(maps).flatten(1).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    if maps.ndim != 4 or not len(maps):
        raise InputError(f"maps: expected (frames, heads, pixels, tokens), got {tuple(maps.shape)}")
    if w and len(maps) < 2:
        raise InputError(f"maps: expected at least 2 frames to fuse with w={w:g}, got {len(maps)}")
    return (1 - w) * maps + w * torch.cat([maps[:1], maps[:-1]])


def inject(
    edit: Tensor,
    source: Tensor,
    keep: Sequence[int] | Mapping[int, int] | Tensor,
) -> Float[Tensor, "f h n t"]:
    """Maps of an edit with those of the source at the tokens that both prompts share, summing to 1 over tokens again.

    Args:
        edit: (f, h, n, t) maps under the prompt of the edit.
        source: (f, h, n, s) maps of the same frames, heads and pixels under the prompt of the source.
        keep: places of the shared tokens, the same in both; booleans, one for each token; or, for prompts of unequal
            length, the place in the edit's prompt to that in the source's.

    Raises:
        InputError: prompts of unequal length without an explicit alignment, other shapes, or a place that is not
            there.

    Source: prompt-to-prompt (arXiv 2208.01626), as arXiv 2311.11697 builds on it; that rows sum to 1 again is ours.

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste.attention_maps import inject
        >>> edit, source = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[0.1, 0.2, 0.7]]]])
        >>> inject(edit, source, {0: 1}).flatten().tolist()  # 0.2 and 0.5, to a sum of 1
        [0.2857142984867096, 0.7142857313156128]
    """
    if edit.shape[:3] != source.shape[:3] or edit.ndim != 4:
        raise InputError(
            f"source: expected maps of {tuple(edit.shape[:3])} frames, heads and pixels, got {tuple(source.shape)}"
        )
    if not isinstance(keep, Mapping):
        if edit.shape[3] != source.shape[3]:
            raise InputError(
                f"keep: expected a mapping from the edit's tokens to the source's, since the prompts have "
                f"{edit.shape[3]} and {source.shape[3]}, got {list(keep)}"
            )
        places = torch.as_tensor(keep)
        if places.dtype == torch.bool and tuple(places.shape) != (edit.shape[3],):
            raise InputError(f"keep: expected one mark for each of {edit.shape[3]} tokens, got {tuple(places.shape)}")
        places = places.nonzero().flatten() if places.dtype == torch.bool else places.flatten()
        keep = {int(place): int(place) for place in places}
    for here, there in keep.items():
        if not (0 <= here < edit.shape[3] and 0 <= there < source.shape[3]):
            raise InputError(
                f"keep: expected places below {edit.shape[3]} and {source.shape[3]}, got {here} and {there}"
            )
    out = edit.clone()
    if keep:
        out[..., list(keep)] = source[..., list(keep.values())].to(out.dtype)
    return out / out.sum(-1, keepdim=True).clamp(min=LEAST)


@checked
def token_map(maps: Tensor, token: Whole) -> Float[Tensor, "f n"]:
    """How much each pixel looks at a token: mean over heads, from 0 to 1 in each frame; 0 where a map is flat.

    Args:
        maps: (f, h, n, t).
        token: its place.

    Raises:
        InputError: no such token.
    """
    if maps.ndim != 4 or token >= maps.shape[3]:
        raise InputError(f"token: expected a place in maps of {tuple(maps.shape)}, got {token}")
    mean = maps[..., token].mean(1)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    return (mean - low) / (high - low).clamp(min=LEAST)


@checked
def token_mask(maps: Tensor, token: Whole, threshold: Share = 0.3, *, grow: Whole = 0) -> Bool[Tensor, "f n"]:
    """Where a token is seen: pixels whose ``token_map`` is above a threshold.

    Args:
        maps: (f, h, n, t), of a square grid of pixels where masks are grown.
        token: its place.
        threshold: of the map.
        grow: pixels by which the mask is dilated.

    Raises:
        InputError: no such token, or a grid that is no square and is to grow.

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste.attention_maps import token_mask
        >>> maps = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.8, 0.2], [0.9, 0.1]]).view(1, 1, 4, 2)
        >>> token_mask(maps, 1).tolist()
        [[True, True, False, False]]
    """
    mask = token_map(maps, token) > threshold
    if not grow:
        return mask
    side = round(mask.shape[1] ** 0.5)
    if side**2 != mask.shape[1]:
        raise InputError(f"grow: expected a square grid, got {mask.shape[1]} pixels")
    square = mask.view(-1, 1, side, side).float()
    return F.max_pool2d(square, 2 * grow + 1, stride=1, padding=grow).flatten(1) > 0


def blend(edit: Tensor, source: Tensor, mask: Tensor) -> Float[Tensor, "f c *places"]:
    """Samples of the edit inside a mask and of the source elsewhere.

    Args:
        edit: (f, c, n) or (f, c, h, w).
        source: likewise.
        mask: (f, n), (f, h, w) or (f, 1, h, w), True where the edit is taken; or shares of it, from 0 to 1.

    Raises:
        InputError: shapes that do not fit, or shares outside of 0 to 1.

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste.attention_maps import blend
        >>> blend(torch.ones(1, 1, 3), torch.zeros(1, 1, 3), torch.tensor([[True, False, False]])).tolist()
        [[[1.0, 0.0, 0.0]]]
    """
    mask = mask[:, 0] if mask.ndim == edit.ndim > 3 and mask.shape[1] == 1 else mask
    if edit.ndim < 3 or edit.shape != source.shape or mask.shape != (len(edit), *edit.shape[2:]):
        raise InputError(
            f"expected samples (frames, channels, pixels) of one shape and a mask (frames, pixels), got "
            f"{tuple(edit.shape)}, {tuple(source.shape)} and {tuple(mask.shape)}"
        )
    if mask.dtype == torch.bool:
        return torch.where(mask[:, None], edit, source)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise InputError(f"mask: expected numbers from 0 to 1, got {mask.min():g} to {mask.max():g}")
    share = mask[:, None].to(edit)
    return share * edit + (1 - share) * source
