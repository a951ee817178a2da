"""How unusual each place of an image is: what a method that finds defects answers."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from tether.core.errors import InputError
from tether.core.ranges import Share, checked

if TYPE_CHECKING:
    from PIL import Image as PillowImage

LONGEST_SHOWN = 512
"""Pixels of the long side of what a notebook shows."""
_STOPS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)
"""Colours from usual to unusual, evenly spaced: dark to light, so that no eye needs the hues."""


@dataclass(frozen=True, slots=True, eq=False)
class AnomalyMap:
    """How unusual one image is, as a whole and in each place.

    Attributes:
        score: of the image, 0 to 1, the higher the more unusual; scores of one method on one model compare.
        values: (r, c) float32 likewise for each place, as coarse as the method gives them.
        size: height and width of the image in pixels.
        name: what the image shows, such as ``magnetic tile``.

    Raises:
        InputError: a score or values outside 0 to 1, or not finite.

    Example:
        >>> import numpy as np
        >>> from tether.core.anomaly_map import AnomalyMap
        >>> found = AnomalyMap(0.7, np.array([[0.1, 0.1], [0.1, 0.7]], dtype=np.float32), size=(40, 60))
        >>> found.pixels().shape, found.peak()
        ((40, 60), (45, 30))
    """

    score: float
    values: Float[np.ndarray, "r c"]
    size: tuple[int, int]
    name: str = "object"

    def __post_init__(self) -> None:
        """Refuse what is no such map."""
        values = self.values
        if values.ndim != 2 or not values.size or values.dtype != np.float32:
            raise InputError(f"values: expected (r, c) float32, got {values.dtype} {values.shape}")
        if min(self.size) < 1:
            raise InputError(f"size: expected a height and a width of 1 pixel at least, got {self.size}")
        low, high = float(values.min()), float(values.max())
        for what, number in (("score", self.score), ("values", low), ("values", high)):
            if not 0 <= number <= 1:  # NaN, too
                raise InputError(f"{what}: expected 0 to 1, got {number}")

    def pixels(self) -> Float[np.ndarray, "h w"]:
        """The map at the image's size, enlarged bilinearly as ``F.interpolate`` does."""
        return enlarged(self.values, self.size)

    def peak(self) -> tuple[int, int]:
        """Pixel x, y in the middle of the most unusual place; the first of equal ones."""
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        (height, width), (rows, columns) = self.size, self.values.shape
        return int((column + 0.5) * width / columns), int((row + 0.5) * height / rows)

    def heat(
        self, *, span: tuple[float, float] | None = None, size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "h w 4"]:
        """The map as colours that lie over the image: see-through where it is usual, light where it is not.

        Args:
            span: values of no colour and of the full one; None takes this map's own, which shows a peak in every image.
                Give the same to all images that shall be compared.
            size: height and width; None takes the image's.
        """
        low, high = (float(self.values.min()), float(self.values.max())) if span is None else span
        share = enlarged(self.values, self.size if size is None else size) - low
        share = np.clip(share / (high - low), 0, 1) if high > low else np.zeros_like(share)
        place = share * (len(_STOPS) - 1)
        before = np.minimum(place.astype(np.int64), len(_STOPS) - 2)
        rest = (place - before)[..., None]
        colours = _STOPS[before] * (1 - rest) + _STOPS[before + 1] * rest
        return np.concatenate([colours, 255 * share[..., None]], axis=2).round().astype(np.uint8)

    @checked
    def overlay(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        *,
        span: tuple[float, float] | None = None,
        strength: Share = 0.8,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """An image under its map.

        Args:
            image: (h, w, 3) uint8 pixels of the image's size.
            span: see ``heat``.
            strength: of the colours, 0 to 1.

        Raises:
            InputError: an image of another size.
        """
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise InputError(f"image: expected uint8 {(*self.size, 3)}, got {image.dtype} {image.shape}")
        heat = self.heat(span=span).astype(np.float32)
        weight = strength * heat[..., 3:] / 255
        return (image * (1 - weight) + heat[..., :3] * weight).round().astype(np.uint8)

    def to_image(self, *, span: tuple[float, float] | None = None, longest: int | None = None) -> PillowImage.Image:
        """``heat`` as an RGBA image, its long side at most ``longest`` pixels."""
        from PIL import Image

        share = 1.0 if longest is None else min(1.0, longest / max(self.size))
        height, width = (max(1, round(side * share)) for side in self.size)
        return Image.fromarray(self.heat(span=span, size=(height, width)))

    def __repr__(self) -> str:
        """Score, and where the map is highest."""
        x, y = self.peak()
        return f"AnomalyMap({self.name}, {self.size[1]} x {self.size[0]}: score {self.score:.4f}, peak at {x}, {y})"

    def _repr_html_(self) -> str:
        file = io.BytesIO()
        self.to_image(longest=LONGEST_SHOWN).save(file, format="PNG")
        shown = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        return f"<img alt='' style='background:#888' src='{shown}'><div>{escape(repr(self))}</div>"


def enlarged(values: Float[np.ndarray, "r c"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """A map at another size, float32, bilinear with the middles of cells in place."""
    import torch
    import torch.nn.functional as F

    return F.interpolate(torch.from_numpy(values.copy())[None, None], size, mode="bilinear")[0, 0].numpy()
