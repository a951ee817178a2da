"""What detectors on patches that attend by values share: how images are looked at, and how maps are blurred."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.data.images import resize
from tether.models.value_attention import ValueRows
from tether.tasks.anomaly.detector import ImageFeatures, check_images

BLUR = 4 / 518
"""Deviation of the blur of a map, as a share of its side."""


@torch.no_grad()
def looks_of(reader: ValueRows, images: Sequence[UInt8[Tensor, "3 h w"]], *, batch_size: int) -> list[ImageFeatures]:
    """Read images of any size; the rows of each are the whole image, and its patches block by block.

    Raises:
        InputError: no pixels, or embeddings that are not finite.
    """
    check_images(images)
    spec, found = reader.image_spec, list[ImageFeatures]()
    for start in range(0, len(images), batch_size):
        some = images[start : start + batch_size]
        pixels = torch.stack([resize(one, *spec.size, spec.interpolation) for one in some])
        rows = reader.encode_image(pixels.to(reader.logit_scale.device)).pooled.float().cpu()
        if not rows.isfinite().all():
            raise InputError("images: their embeddings are not finite; the model's weights are damaged")
        seen = reader.features(rows)
        for number, image in enumerate(some):
            tables = (seen.image[number : number + 1], *seen.patches[:, number])
            found.append(ImageFeatures((image.shape[1], image.shape[2]), reader.grid, tables))
    return found


def blurred(values: Float[np.ndarray, "h w"], *, share: float = BLUR) -> Float[np.ndarray, "h w"]:
    """A map under a Gaussian filter, with values from 0 to 1.

    Args:
        values: 0 to 1, float32.
        share: deviation of the filter, as a share of the map's longer side; published codes have 4 of 518 pixels.

    Example:
        >>> import numpy as np
        >>> from tether.tasks.anomaly.value_looks import blurred
        >>> values = np.zeros((5, 5), dtype=np.float32)
        >>> values[2, 2] = 1
        >>> round(float(blurred(values, share=0.2)[2, 2]), 3), float(blurred(values, share=0.0)[2, 2])
        (0.159, 1.0)
    """
    from scipy.ndimage import gaussian_filter

    if not share:
        return values
    return gaussian_filter(values, sigma=share * max(values.shape)).clip(0, 1)
