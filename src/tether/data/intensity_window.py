"""Which part of an image's grey values is shown: windows on values of more than 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Num, UInt8

from tether.core.errors import InputError
from tether.core.ranges import Number, Positive, checked

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's conversion to grey
Curve = Literal["linear", "linear_exact", "sigmoid"]
PERCENTILES = (0.5, 99.5)
"""What ``from_values`` leaves outside: a few hot or dead pixels must not decide how the rest is seen."""
_BAND = 1 << 20  # values that are shown at once, in 64 bits


@checked
@dataclass(frozen=True, slots=True)
class WindowLevel:
    """A window on grey values, as DICOM defines it (PS3.3, C.11.2.1.2): below it is black, above it is white.

    Args:
        center: the middle of the window, in the unit of the values (Hounsfield units for CT).
        width: its width in that unit: at least 1 for ``linear``, above 0 otherwise.
        curve: ``linear`` is DICOM's default, which counts whole values and is half a value off ``linear_exact``;
            ``sigmoid`` has soft ends.
        polarity: ``normal``, or ``inverted`` where the lowest value is white.
    """

    center: Number
    width: Positive
    curve: Curve = "linear"
    polarity: Literal["normal", "inverted"] = "normal"

    def __post_init__(self) -> None:
        """Refuse what is no window."""
        if self.curve == "linear" and self.width < 1:
            raise InputError(f"width: expected at least 1 with curve 'linear', got {self.width!r}")

    @classmethod
    def from_range(cls, low: float, high: float) -> WindowLevel:
        """The window whose ends are ``low``, which is black, and ``high``, which is white."""
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"expected a finite range with low < high, got {low!r} and {high!r}")
        return cls((low + high) / 2, high - low, curve="linear_exact")

    @classmethod
    def from_values(
        cls, values: Num[np.ndarray, "*shape"], *, percentiles: tuple[float, float] = PERCENTILES
    ) -> WindowLevel:
        """The window that shows all values but the lowest and the highest of one image or volume.

        Values that are all alike get a window of width 1 around them. NaN is left out.
        """
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise InputError(f"percentiles: expected 0 <= low < high <= 100, got {percentiles}")
        known = values[np.isfinite(values)]
        if not known.size:
            raise InputError(f"expected at least one finite value, got none of {values.size}")
        ends = [_percentile(known, each) for each in percentiles]
        if ends[0] == ends[1]:
            return cls(ends[0], 1.0, curve="linear_exact")
        return cls.from_range(*ends)

    def __call__(self, values: Num[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """Grey values of any number type to 0..255, rounded; NaN is black."""
        if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
            raise InputError(f"expected grey values, got {values.dtype} {values.shape}")
        shown = np.empty(values.shape, np.uint8)
        flat, out = values.reshape(-1), shown.reshape(-1)
        with np.errstate(invalid="ignore"):  # a NaN that signals
            for start in range(0, flat.size, _BAND):
                out[start : start + _BAND] = self._shown(flat[start : start + _BAND].astype(np.float64))
        return shown

    def _shown(self, wide: np.ndarray) -> np.ndarray:
        if self.curve == "sigmoid":
            with np.errstate(over="ignore"):
                share = 1 / (1 + np.exp(-4 * (wide - self.center) / self.width))
        elif self.curve == "linear_exact":
            share = np.clip((wide - self.center) / self.width + 0.5, 0, 1)
        else:
            middle, reach = self.center - 0.5, self.width - 1
            inside = (wide - middle) / reach + 0.5 if reach else np.full_like(wide, np.nan)
            share = np.where(wide <= middle - reach / 2, 0.0, np.where(wide > middle + reach / 2, 1.0, inside))
        if self.polarity == "inverted":
            share = 1 - share
        return np.round(255 * np.nan_to_num(share, nan=0.0)).astype(np.uint8)


def brightness(colour: UInt8[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape"]:
    """float32 grey values of colours."""
    return colour.astype(np.float32) @ np.array(LUMA, np.float32)


def _percentile(values: np.ndarray, percent: float) -> float:
    """As ``np.percentile`` of the values in 64 bits, of which only the two that matter are made; sorts in place."""
    place = percent / 100 * (values.size - 1)
    below = int(place)
    above = min(below + 1, values.size - 1)
    values.partition((below, above))
    low, high = float(values[below]), float(values[above])
    share = place - below
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


@dataclass(frozen=True, slots=True)
class DeepImage:
    """An image of more than 8 bits or of several frames, and the few facts that a data set is split and reported by.

    Of a DICOM header names, dates, addresses and free text are never read out; patient and study are pseudonyms.

    Attributes:
        values: (frames, h, w) grey values in ``unit``; of a colour image its brightness.
        colour: (frames, h, w, 3) where the image is in colour, else None.
        window: the file's own first window, with its polarity; None where it has none.
        polarity: ``inverted`` where the lowest value is white (MONOCHROME1).
        unit: what the values are in, such as ``HU``; empty where the file does not say.
        modality: such as ``CT``, ``MR``, ``DX``; empty for other files than DICOM.
        view: such as ``PA`` or ``LATERAL``; empty where the file does not say.
        patient: 64-bit pseudonym, or None without a secret or an identity.
        study: the same for the study.
    """

    values: Float[np.ndarray, "s h w"]
    colour: UInt8[np.ndarray, "s h w 3"] | None
    window: WindowLevel | None
    polarity: Literal["normal", "inverted"]
    unit: str = ""
    modality: str = ""
    view: str = ""
    patient: int | None = None
    study: int | None = None

    def grey(self, *, window: WindowLevel | None = None) -> UInt8[np.ndarray, "s h w"]:
        """All frames through a window: the one given, else the file's own, else one that shows nearly all values.

        A window that is given is turned over where the file's lowest value is white.
        """
        if window is None and self.window is not None:
            return self.window(self.values)
        window = window or WindowLevel.from_values(self.values)
        if self.polarity == "inverted":
            flipped = "normal" if window.polarity == "inverted" else "inverted"
            window = WindowLevel(window.center, window.width, window.curve, flipped)
        return window(self.values)
