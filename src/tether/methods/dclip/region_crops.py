"""An image and the parts of it that its boxes name, each cut out of the original pixels and resized for a model."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import ImageSpec, Row
from tether.data.boxes import cut_box
from tether.data.images import decode, resize_and_crop
from tether.data.placement import Placement
from tether.data.regions import RegionColumns


@final
class RegionCropper:
    """The whole image first, then a crop for each box; an image without boxes is the whole alone.

    Example:
        >>> import numpy as np
        >>> from tether.core.types import ImageSpec, Row
        >>> from tether.methods.dclip.region_crops import RegionCropper
        >>> from tether.data.regions import RegionColumns
        >>> row = Row("7", np.zeros((40, 60, 3), np.uint8), meta={"boxes": [[0.0, 0.0, 0.5, 1.0]]})
        >>> RegionCropper(RegionColumns(most=4), spec=ImageSpec((32, 32)))(row).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, columns: RegionColumns | None, *, spec: ImageSpec) -> None:
        """Take the settings.

        Args:
            columns: where a row's boxes stand, and how many are taken at most; of more, some are drawn by the row's
                key. None has whole images alone.
            spec: how the model wants its images.
        """
        self._columns, self._spec = columns, spec.fixed()
        self.most = 1 if columns is None else 1 + columns.most

    def __call__(self, row: Row) -> UInt8[Tensor, "k 3 h w"]:
        """The crops of a row, at most ``most``.

        Raises:
            InputError: an image that cannot be opened, or boxes that are none; it names the row.
        """
        if row.image is None:
            raise InputError(f"{row.key}: expected an image to cut regions from, got none")
        pixels = decode(row.image, name=row.key)
        crops = [pixels]
        if self._columns is not None:
            height, width = pixels.shape[1:]
            regions = self._columns.read(row, size=(height, width))
            chosen = self._columns.chosen(regions, Placement(), draw=hash_int(row.key, salt="region crops"))
            crops += [cut_box(pixels, box) for box in regions.boxes[chosen].tolist()]
        return torch.stack([resize_and_crop(crop, self._spec) for crop in crops])
