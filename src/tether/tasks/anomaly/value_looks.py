"""What detectors on patches that attend by values share: how images are looked at, and how maps are blurred."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.models.features.value_attention import ValueRows
from tether.tasks.anomaly.detector import ImageFeatures, looks_of

BLUR = 4 / 518
"""Deviation of the blur of a map, as a share of its side."""


def check_cosine(model: DualEncoder, *, method: str) -> None:
    """Refuse a model of another geometry."""
    if (name := geometry_of(model).name) != "clip":
        raise UnsupportedModelError(f"{method}: it compares embeddings by cosine, and this model's geometry is {name}")


def value_looks(reader: ValueRows, images: Sequence[UInt8[Tensor, "3 h w"]], *, batch_size: int) -> list[ImageFeatures]:
    """See ``looks_of``; the rows of each image are the whole image, and its patches block by block."""

    def read(pixels: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        seen = reader.features(reader.encode_image(pixels).pooled)
        return [seen.image[:, None], *seen.patches]

    return looks_of(read, images, model=reader, grid=reader.grid, batch_size=batch_size)


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
