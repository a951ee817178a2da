"""Where an image is as some texts say and not as others say, and the share of its pixels where that is most so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Inner, checked


def unit_range(maps: Float[Tensor, "b r c"]) -> Float[Tensor, "b r c"]:
    """Each map from 0 at its least to 1 at its largest value; 0 everywhere where it is flat.

    Example:
        >>> import torch
        >>> from tether.methods.clap.contrast import unit_range
        >>> unit_range(torch.tensor([[[1.0, 2.0, 5.0]], [[7.0, 7.0, 7.0]]])).tolist()
        [[[0.0, 0.25, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), torch.zeros_like(maps))


def contrast(
    positive: Float[Tensor, "b r c"], negative: Float[Tensor, "b r c"] | None = None
) -> Float[Tensor, "b r c"]:
    """What is left of a map where another one is not as high, each brought to 0 to 1 first.

    Similarities of different texts have different offsets; without a common range their difference has no zero.

    Args:
        positive: such as mean similarities of patches to texts.
        negative: likewise; None subtracts nothing.

    Returns:
        0 to 1, image by image; 0 everywhere where nothing is left.

    Example:
        >>> import torch
        >>> from tether.methods.clap.contrast import contrast
        >>> contrast(torch.tensor([[[1.0, 5.0, 3.0]]]), torch.tensor([[[6.0, 7.0, 8.0]]])).tolist()
        [[[0.0, 0.5, 0.0]]]
    """
    if positive.ndim != 3 or not positive.numel() or (negative is not None and negative.shape != positive.shape):
        other = None if negative is None else tuple(negative.shape)
        raise InputError(f"expected maps (b, r, c) of one shape, got {tuple(positive.shape)} and {other}")
    found = unit_range(positive)
    return found if negative is None else (found - unit_range(negative)).relu()


def mean_cosine(features: Float[Tensor, "b n d"], texts: Float[Tensor, "k d"]) -> Float[Tensor, "b n"]:
    """The mean cosine of each patch to the texts of a set.

    Args:
        features: patches, of any length.
        texts: embeddings, of any length, one at least.
    """
    if texts.ndim != 2 or not len(texts) or features.ndim != 3 or features.shape[2] != texts.shape[1]:
        raise InputError(
            f"texts: expected (k, d) with k > 0 for patches (b, n, d), got {tuple(texts.shape)} for "
            f"{tuple(features.shape)}"
        )
    return (F.normalize(features, dim=2) @ F.normalize(texts, dim=1).T).mean(dim=2)


def contrast_attention(
    features: Float[Tensor, "b n d"],
    positive: Float[Tensor, "p d"],
    negative: Float[Tensor, "m d"] | None = None,
    *,
    grid: tuple[int, int] | None = None,
) -> Float[Tensor, "b r c"]:
    """Where patches are as texts of defects say, less where they are as texts of what is normal say, 0 to 1.

    Source: CLAP (arXiv 2411.07546), which subtracts attention maps; that a map is the mean cosine of its texts, brought
    to 0 to 1, is our definition.

    Args:
        features: of patches, row by row.
        positive: embeddings of texts that name defects.
        negative: of texts that name what is as it should be; None leaves the positive ones alone.
        grid: rows and columns of patches; None for a square.

    Raises:
        InputError: not one text in a set, widths that differ, or a grid of another number of patches.

    Example:
        >>> import torch
        >>> from tether.methods.clap.contrast import contrast_attention
        >>> patches = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]])
        >>> contrast_attention(patches, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).tolist()
        [[[1.0, 0.0], [0.0, 0.0]]]
    """
    count = features.shape[1] if features.ndim == 3 else 0
    rows, columns = (round(count**0.5),) * 2 if grid is None else grid
    if features.ndim != 3 or rows * columns != count or not count:
        raise InputError(f"features: expected (b, {rows} x {columns}, d), got {tuple(features.shape)}")
    maps = [
        None if texts is None else mean_cosine(features, texts).unflatten(1, (rows, columns))
        for texts in (positive, negative)
    ]
    assert maps[0] is not None  # there are positive texts
    return unit_range(contrast(maps[0], maps[1]))


@checked
def quantile_mask(
    attention: Float[Tensor, "b r c"], *, size: tuple[int, int], quantile: Inner = 0.9
) -> Bool[Tensor, "b 1 h w"]:
    """The pixels whose attention is above a quantile of the image's own, whatever its level; none where all are equal.

    Args:
        attention: 0 or more; enlarged bilinearly.
        size: height and width in pixels.
        quantile: share of the pixels that are left out.

    Example:
        >>> import torch
        >>> from tether.methods.clap.contrast import quantile_mask
        >>> quantile_mask(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]), size=(10, 10)).float().mean().item()
        0.10000000149011612
    """
    if attention.ndim != 3 or not attention.numel():
        raise InputError(f"attention: expected (b, r, c), got {tuple(attention.shape)}")
    found = F.interpolate(attention[:, None], size, mode="bilinear")
    varies = (attention.amax(dim=(1, 2)) > attention.amin(dim=(1, 2)))[:, None, None, None]
    return (found > quantile_of(found, quantile)[:, None, None, None]) & varies


def quantile_of(maps: Tensor, quantile: float) -> Float[Tensor, " b"]:
    """Of each image, linear between the two nearest values as ``torch.quantile``, whose size is limited."""
    values = maps.flatten(1).sort(dim=1).values
    place = quantile * (values.shape[1] - 1)
    below = int(place)
    above = min(below + 1, values.shape[1] - 1)
    return torch.lerp(values[:, below], values[:, above], place - below)
