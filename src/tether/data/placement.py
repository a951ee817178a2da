"""Where a view of an image lies in it, and what that makes of boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Window = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of an image's width and height."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The part of an image that a view shows.

    Attributes:
        box: x0, y0, x1, y1 in shares of the image's width and height; beyond 0 and 1 where the view has a margin.
        flipped: whether left and right are exchanged.

    Example:
        >>> import numpy as np
        >>> from tether.data.placement import Placement
        >>> left = Placement((0.0, 0.0, 0.5, 1.0))  # the left half of an image
        >>> boxes, left_over = left.moved(np.array([[0.25, 0.25, 0.75, 0.75]]))
        >>> boxes.tolist(), left_over.tolist()
        ([[0.5, 0.25, 1.0, 0.75]], [0.5])
        >>> left.then(Placement((0.0, 0.0, 0.5, 1.0), flipped=True))  # the left half of that, mirrored
        Placement(box=(0.0, 0.0, 0.25, 1.0), flipped=True)
    """

    box: Window = (0.0, 0.0, 1.0, 1.0)
    flipped: bool = False

    def then(self, following: Placement) -> Placement:
        """What of the image is shown by a view of this view."""
        x0, y0, x1, y1 = following.box
        if self.flipped:
            x0, x1 = 1 - x1, 1 - x0
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        box = (left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height)
        return Placement(box, self.flipped != following.flipped)

    def moved(self, boxes: Float[np.ndarray, "n 4"]) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
        """Boxes of the image as boxes of the view, cut off at its border, and the share of each that is left.

        Args:
            boxes: x0, y0, x1, y1 in shares of the image.
        """
        x0, y0, x1, y1 = self.box
        inside = (boxes - (x0, y0, x0, y0)) / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
        if self.flipped:
            inside = np.stack([1 - inside[:, 2], inside[:, 1], 1 - inside[:, 0], inside[:, 3]], axis=1)
        cut = np.clip(inside, 0, 1)
        return cut, _areas(cut) / _areas(inside)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


class MaskMover:
    """One mask of an image, asked for in several views: what a pixel of the view covers is measured exactly."""

    def __init__(self, mask: Bool[np.ndarray, "h w"]) -> None:
        """Add up what there is of the mask once, so that every view costs little more than its own pixels.

        Args:
            mask: of the image's size, True somewhere.
        """
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        self._size, self._corner = mask.shape, (int(rows[0]), int(columns[0]))
        inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self._sums = np.zeros((inner.shape[0] + 1, inner.shape[1] + 1))
        self._sums[1:, 1:] = inner
        np.cumsum(self._sums, axis=1, out=self._sums)
        np.cumsum(self._sums, axis=0, out=self._sums)

    def seen(self, placement: Placement, *, size: tuple[int, int]) -> Bool[np.ndarray, "rows columns"]:
        """The pixels of a view that the mask covers by half or more.

        Args:
            placement: of the view.
            size: its height and width in pixels.
        """
        x0, y0, x1, y1 = placement.box
        (height, width), (top, left) = self._size, self._corner
        down, across = np.linspace(y0, y1, size[0] + 1) * height, np.linspace(x0, x1, size[1] + 1) * width
        sums = _between(_between(self._sums, down - top).T, across - left).T
        pixel = (down[-1] - down[0]) * (across[-1] - across[0]) / (size[0] * size[1])
        covered = np.diff(np.diff(sums, axis=0), axis=1) >= (0.5 - 1e-9) * pixel
        return covered[:, ::-1] if placement.flipped else covered


def _between(sums: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of a table of sums at places between its own; what lies outside adds nothing."""
    at = np.clip(at, 0, len(sums) - 1)
    low = np.minimum(at.astype(np.int64), len(sums) - 2)
    part = (at - low)[:, None]
    return sums[low] * (1 - part) + sums[low + 1] * part
