"""A whole image as a model sees it, and its regions in that view: nothing of the image is cut away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from tether.core.types import ImageSpec
from tether.data.images import fitted, resize_and_crop
from tether.data.placement import MaskMover


@dataclass(frozen=True, slots=True)
class RegionView:
    """One image at a model's size, padded to its aspect, with k regions.

    Attributes:
        pixels: of the view.
        masks: True inside of each region, at least one pixel.
        boxes: x0, y0, x1, y1 of each in shares of the view.
    """

    pixels: UInt8[Tensor, "3 h w"]
    masks: Bool[Tensor, "k h w"]
    boxes: Float[Tensor, "k 4"]


def whole_image(spec: ImageSpec) -> ImageSpec:
    """The same preparation with the whole image in view: where a model cuts the middle out, black bars are added."""
    fixed = spec.fixed()
    return replace(fixed, resize="longest", fill=0, resized=None) if fixed.resize == "shortest" else fixed


def region_view(
    pixels: UInt8[Tensor, "3 h w"],
    *,
    boxes: Float[np.ndarray, "k 4"],
    masks: Sequence[Bool[np.ndarray, "h w"]] | None = None,
    spec: ImageSpec,
) -> RegionView:
    """Bring an image and its regions to a model's size.

    Args:
        pixels: of the image.
        boxes: x0, y0, x1, y1 of k regions, in shares of the image.
        masks: of the image's size, something inside in each; None takes the boxes.
        spec: how the model wants its images; see ``whole_image``.

    Example:
        >>> import numpy as np, torch
        >>> from tether.core.types import ImageSpec
        >>> from tether.data.region_views import region_view
        >>> image = torch.zeros(3, 40, 80, dtype=torch.uint8)
        >>> seen = region_view(image, boxes=np.array([[0.0, 0.0, 0.5, 1.0]]), spec=ImageSpec((32, 32)))
        >>> seen.boxes.tolist(), seen.masks.sum().item()
        ([[0.0, 0.25, 0.5, 0.75]], 256)
    """
    used = whole_image(spec)
    height, width = int(pixels.shape[1]), int(pixels.shape[2])
    placement = fitted(height, width, used)
    moved = placement.moved(boxes)[0]
    rows, columns = used.size
    found = np.zeros((len(boxes), rows, columns), dtype=bool)
    for number, (x0, y0, x1, y1) in enumerate(moved):
        left, top = min(round(x0 * columns), columns - 1), min(round(y0 * rows), rows - 1)
        found[number, top : max(top + 1, round(y1 * rows)), left : max(left + 1, round(x1 * columns))] = True
        if masks is not None:
            seen = MaskMover(masks[number]).seen(placement, size=used.size)
            found[number] = seen if seen.any() else found[number]  # too small to cover half a pixel
    return RegionView(resize_and_crop(pixels, used), torch.from_numpy(found), torch.from_numpy(moved).float())
