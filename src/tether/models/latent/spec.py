"""What latents are like: their shape, their scale, and their mean and deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import PositiveSingle, Single, checked

Channels = Annotated[int, Ge(1), Le(1024)]
Downsampling = Annotated[int, Ge(2), Le(256)]
LIMIT = 4.0
"""How many times larger or smaller latents may be than those that are known."""


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpec:
    """How a model's latents are made, as ``ImageSpec`` says it of images.

    Attributes:
        channels: of a latent.
        downsampling: pixels down, and across, that one place of a latent stands for.
        scale: what the auto-encoder's own latents are multiplied by.
        mean: of each channel after that, over the images that it was measured on; empty where nothing was measured.
        std: the deviation likewise.
    """

    channels: Channels = 4
    downsampling: Downsampling = 8
    scale: PositiveSingle = 1.0
    mean: tuple[Single, ...] = ()
    std: tuple[PositiveSingle, ...] = ()

    def __post_init__(self) -> None:
        """Refuse statistics of other channels."""
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != (self.channels if self.mean else 0):
                raise InputError(f"{name}: expected {self.channels} numbers, one a channel, or none, got {len(values)}")
            object.__setattr__(self, name, values)

    @classmethod
    def read(cls, values: LatentSpec | Mapping[str, Any], *, where: str) -> LatentSpec:
        """From plain values, each key checked."""
        if isinstance(values, LatentSpec):
            return values
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: expected a mapping, got {quoted(values)}")
        known = [one.name for one in fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"{where}: unknown key {quoted(key)}; {closest(f'{key}'[:80], known)}")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}.{error}") from None

    def size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the latent of an image of this height and width."""
        if any(side % self.downsampling for side in image):
            raise InputError(f"image: expected sides that {self.downsampling} (downsampling) divides, got {image}")
        return image[0] // self.downsampling, image[1] // self.downsampling

    @property
    def level(self) -> float | None:
        """Root mean square of a latent's numbers; None where nothing was measured."""
        squares = [mean**2 + std**2 for mean, std in zip(self.mean, self.std, strict=True)]
        return math.sqrt(sum(squares) / len(squares)) if squares else None

    def agree(self, other: LatentSpec, *, where: str) -> None:
        """Refuse a codec whose latents are of another shape, scale or distribution.

        Raises:
            InputError: it names both.
        """
        for name in ("channels", "downsampling", "scale"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise InputError(f"{where}: the codec has latents of {name} {theirs}, the model reads those of {ours}")
        if not self.mean or not other.mean:
            return
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            to, by = other.mean[channel], other.std[channel]
            if abs(to - mean) > std or not 0.5 < by / std < 2:
                raise InputError(
                    f"{where}: the codec's channel {channel} has mean {to:.3g} and deviation {by:.3g}, in the latents "
                    f"that the model reads they are {mean:.3g} and {std:.3g}: another codec"
                )

    def check(self, latents: Tensor, *, where: str = "latents") -> None:
        """Refuse latents of another scale, as those that nobody has multiplied by it: a look at the numbers.

        Raises:
            InputError: it names what was found and what is known.
        """
        known = self.level
        if known is None or not latents.numel():
            return
        found = float(latents.detach().double().square().mean().sqrt())
        if not known / LIMIT < found < known * LIMIT:
            raise InputError(
                f"{where}: latents of another scale: their root mean square is {found:.3g}, that of the model's codec "
                f"{known:.3g}; expected latents times {self.scale:.6g} (scale), once"
            )
