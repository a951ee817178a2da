"""Small changes of raw pixels, a whole batch at a time; what happens to a row depends on its 64 random bits alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Annotated, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import UInt8
from torch import Tensor

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.hash_rng import GOLDEN, hash_int, mixed
from tether.core.ranges import Positive, Share, checked
from tether.core.registry import Registry
from tether.data.intensity_window import LUMA
from tether.data.placement import Placement

_AT_ONCE = 16  # rows whose floats stay in the processor's cache: 2.5 times faster than a whole batch


class Augment(Protocol):
    """Changes a batch of raw pixels."""

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """New pixels; ``draws`` (b,) uint64 are 64 random bits of this seed, epoch and row."""
        ...

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> Sequence[Placement]:
        """Which part of each image, of ``size`` (h, w), the same draws leave to be seen, for boxes and masks."""
        ...


def uniforms(draws: np.ndarray, *, count: int, salt: str) -> np.ndarray:
    """(b, count) float64 in [0, 1) from (b,) uint64 bits; another salt gives independent numbers."""
    steps = GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    return (mixed((draws ^ np.uint64(hash_int(salt)))[:, None] + steps) >> np.uint64(11)) * 2.0**-53


class ShiftScale:
    """Moves and zooms every image a little; what comes in from outside repeats the border.

    Zoom factors are taken from a fixed ladder, so that rows with equal factors are resized in one call.
    """

    @checked
    def __init__(
        self,
        *,
        shift: Annotated[float, Ge(0), Le(0.5)] = 0.08,
        scale: Annotated[float, Ge(0), Le(0.9)] = 0.15,
        levels: Annotated[int, Ge(1), Le(100)] = 5,
    ) -> None:
        """Set the ranges.

        Args:
            shift: largest move up, down, left or right, as a fraction of the height or width, 0 to 0.5.
            scale: the window that fills the image is 1 - scale to 1 + scale times the image, 0 to 0.9.
            levels: how many zoom factors, evenly spaced, at least 1 (1: no zoom).
        """
        self._shift = shift
        self._factors = np.linspace(1 - scale, 1 + scale, levels) if levels > 1 and scale else np.ones(1)

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Move and zoom each row by its draw."""
        height, width = pixels.shape[2:]
        level, sides, margin, corner = self._windows(draws, height, width)
        padded = _repeat_border(pixels, *margin)
        out = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        for number in range(len(self._factors)):
            members = np.flatnonzero(level == number)
            if not len(members):
                continue
            rows, columns = (int(side) for side in sides[:, number])
            cut = torch.stack(
                [
                    padded[i, :, y : y + rows, x : x + columns]
                    for i, (y, x) in zip(members, corner[members], strict=True)
                ]
            )
            if (rows, columns) != (height, width):
                cut = F.interpolate(cut, (height, width), mode="bilinear", antialias=True)
            out[torch.from_numpy(members)] = cut
        return out

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment."""
        level, sides, margin, corner = self._windows(draws, *size)
        first = corner - margin  # row and column, in pixels of the image
        ends = first + sides[:, level].T
        boxes = np.concatenate([first[:, ::-1], ends[:, ::-1]], axis=1) / (size[1], size[0], size[1], size[0])
        return [Placement((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes.tolist()]

    def _windows(
        self, draws: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
        """Each row's zoom, the window's sides for each zoom, the frame's margin, and each window's corner in it."""
        chance = uniforms(draws, count=3, salt="shift_scale")
        level = (chance[:, 0] * len(self._factors)).astype(np.int64)
        sides = np.stack([np.maximum(1, np.round(self._factors * side)) for side in (height, width)]).astype(np.int64)
        margin = [
            ceil(side * self._shift + max(0, int(sides[i].max()) - side) / 2) + 1
            for i, side in enumerate((height, width))
        ]
        moves = self._shift * (2 * chance[:, 1:] - 1)
        free = np.stack([np.array([height, width])[i] - sides[i][level] for i in range(2)], axis=1)
        return level, sides, margin, np.round(margin + free / 2 + moves * (height, width)).astype(np.int64)


class Flip:
    """Mirrors an image left to right; wrong for lettering and for words like "left"."""

    @checked
    def __init__(self, *, chance: Share = 0.5) -> None:
        """Set the fraction of rows that are mirrored, 0 to 1."""
        self._chance = chance

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Mirror the rows whose draw says so."""
        chosen = torch.from_numpy(self._chosen(draws))
        out = pixels.clone()
        out[chosen] = pixels[chosen].flip(3)
        return out

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment."""
        return [Placement(flipped=flipped) for flipped in self._chosen(draws).tolist()]

    def _chosen(self, draws: np.ndarray) -> np.ndarray:
        return uniforms(draws, count=1, salt="flip")[:, 0] < self._chance


class Colour:
    """Changes brightness, contrast and saturation, each by a factor of 1 - x to 1 + x."""

    @checked
    def __init__(self, *, brightness: Share = 0.2, contrast: Share = 0.2, saturation: Share = 0.2) -> None:
        """Set the three ranges, 0 to 1 each; contrast acts about the image's mean, saturation about its grey."""
        self._ranges = np.array([brightness, contrast, saturation])

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Change each row by its draw."""
        factors = 1 + self._ranges * (2 * uniforms(draws, count=3, salt="colour") - 1)
        brightness, contrast, saturation = (torch.from_numpy(f).float().view(-1, 1, 1, 1) for f in factors.T)
        parts = zip(
            pixels.split(_AT_ONCE), *(f.split(_AT_ONCE) for f in (brightness, contrast, saturation)), strict=True
        )
        return torch.cat([self._change(*part) for part in parts])

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment; nothing moves."""
        return [Placement()] * len(draws)

    @staticmethod
    def _change(pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
        values = pixels.float()
        luma = values.new_tensor(LUMA).view(3, 1, 1)
        grey = (values * luma).sum(1, keepdim=True)
        mean = grey.mean((2, 3), keepdim=True)
        # All three are linear: colour + its grey + a constant, so the pixels are passed over once.
        values.mul_(brightness * contrast * saturation)
        values.add_(grey.mul_(brightness * contrast * (1 - saturation)).add_(brightness * (1 - contrast) * mean))
        return _bytes(values)


class Hue:
    """Turns all colours of an image about the axis of greys, one way or the other."""

    @checked
    def __init__(self, *, turn: Annotated[float, Ge(0), Le(0.5)] = 0.1) -> None:
        """Set the largest turn, as a share of the circle, 0 to 0.5."""
        self._turn = turn

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Turn each row by its draw."""
        angle = 2 * np.pi * self._turn * (2 * uniforms(draws, count=1, salt="hue")[:, 0] - 1)
        sine, rest = np.sin(angle)[:, None, None] / np.sqrt(3), (1 - np.cos(angle))[:, None, None] / 3
        across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
        matrix = np.cos(angle)[:, None, None] * np.eye(3) + sine * across + rest
        parts = zip(pixels.split(_AT_ONCE), torch.from_numpy(matrix).float().split(_AT_ONCE), strict=True)
        return torch.cat([_bytes(torch.einsum("bij,bjhw->bihw", turned, part.float())) for part, turned in parts])

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment; nothing moves."""
        return [Placement()] * len(draws)


class Grey:
    """Takes the colour out of an image."""

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """The same for every row."""
        luma = torch.tensor(LUMA).view(3, 1, 1)
        parts = [(part.float() * luma).sum(1, keepdim=True) for part in pixels.split(_AT_ONCE)]
        return _bytes(torch.cat(parts)).expand(-1, 3, -1, -1).contiguous()

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment; nothing moves."""
        return [Placement()] * len(draws)


class Blur:
    """Blurs an image by a Gaussian of a width that is drawn evenly."""

    @checked
    def __init__(self, *, sigma: tuple[Positive, Positive] = (0.1, 2.0)) -> None:
        """Set the least and the largest standard deviation, in pixels of the view."""
        if sigma[0] > sigma[1]:
            raise InputError(f"sigma: expected the smaller number first, got {list(sigma)}")
        self._sigma = sigma

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Blur each row by its draw; beyond the border stands the border."""
        low, high = self._sigma
        sigma = torch.from_numpy(low + (high - low) * uniforms(draws, count=1, salt="blur")).float()
        reach = min(ceil(3 * high), 64)
        kernel = torch.exp(-((torch.arange(-reach, reach + 1) / sigma).square()) / 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, dim=0)[:, None]
        parts = zip(pixels.split(_AT_ONCE), kernel.split(3 * _AT_ONCE), strict=True)
        return torch.cat([self._blurred(*part, reach=reach) for part in parts])

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment; nothing moves."""
        return [Placement()] * len(draws)

    @staticmethod
    def _blurred(pixels: Tensor, kernel: Tensor, *, reach: int) -> Tensor:
        flat = pixels.float().flatten(0, 1)[None]
        flat = F.pad(flat, (reach, reach, reach, reach), mode="replicate")
        for one in (kernel[:, :, None], kernel[..., None]):
            flat = F.conv2d(flat, one, groups=len(kernel))
        return _bytes(flat.view(pixels.shape))


class Solarise:
    """Turns the bright pixels of each channel into their negative."""

    @checked
    def __init__(self, *, threshold: Annotated[int, Ge(0), Le(255)] = 128) -> None:
        """Set the least value that is turned, 0 to 255."""
        self._threshold = threshold

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """The same for every row."""
        return torch.where(pixels >= self._threshold, 255 - pixels, pixels)

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment; nothing moves."""
        return [Placement()] * len(draws)


class Sometimes:
    """Another change, of some of the rows."""

    @checked
    def __init__(self, *, part: str | dict[str, Any] = "colour", chance: Share = 0.5) -> None:
        """Name the change, as a word or a mapping with ``name`` and its settings, and the fraction of rows."""
        self._part: Augment = build(part, AUGMENTATIONS, where="augment: sometimes: part")
        self._chance, self._salt = chance, f"sometimes {part}"

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Change the rows whose draw says so."""
        chosen = self._chosen(draws)
        if not len(chosen):
            return pixels
        out = pixels.clone()
        out[torch.from_numpy(chosen)] = self._part(pixels[torch.from_numpy(chosen)], draws=draws[chosen])
        return out

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment."""
        found, chosen = [Placement()] * len(draws), self._chosen(draws)
        for row, one in zip(chosen.tolist(), self._part.placements(draws[chosen], size=size), strict=True):
            found[row] = one
        return found

    def _chosen(self, draws: np.ndarray) -> np.ndarray:
        return np.flatnonzero(uniforms(draws, count=1, salt=self._salt)[:, 0] < self._chance)


class Chain:
    """Several changes, one after another."""

    def __init__(self, *, parts: Sequence[str | Mapping[str, Any]] = ("shift_scale", "colour")) -> None:
        """Name the parts, each as a word or a mapping with ``name`` and its settings."""
        self._parts: list[Augment] = [
            build(part, AUGMENTATIONS, where=f"augment: parts[{i}]") for i, part in enumerate(parts)
        ]

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """Apply all parts in order."""
        for part in self._parts:
            pixels = part(pixels, draws=draws)
        return pixels

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> list[Placement]:
        """See Augment; those of all parts, one after another."""
        found = [Placement()] * len(draws)
        for part in self._parts:
            found = [one.then(other) for one, other in zip(found, part.placements(draws, size=size), strict=True)]
        return found


AUGMENTATIONS: Registry[Augment] = Registry(
    "augmentations",
    {
        "shift_scale": "tether.data.augment:ShiftScale",
        "flip": "tether.data.augment:Flip",
        "colour": "tether.data.augment:Colour",
        "hue": "tether.data.augment:Hue",
        "grey": "tether.data.augment:Grey",
        "blur": "tether.data.augment:Blur",
        "solarise": "tether.data.augment:Solarise",
        "sometimes": "tether.data.augment:Sometimes",
        "chain": "tether.data.augment:Chain",
    },
)
"""Every change of images by name."""


def _bytes(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).round_().to(torch.uint8)


def _repeat_border(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """The images in a larger frame of their own border; torch's replicate padding does not take bytes."""
    height, width = pixels.shape[2:]
    out = pixels.new_empty(*pixels.shape[:2], height + 2 * rows, width + 2 * columns)
    middle = out[:, :, rows : rows + height]
    middle[..., columns : columns + width] = pixels
    middle[..., :columns] = pixels[..., :1]
    middle[..., columns + width :] = pixels[..., -1:]
    out[:, :, :rows] = middle[:, :, :1]
    out[:, :, rows + height :] = middle[:, :, -1:]
    return out
