"""Strong changes of images for classification: RandAugment of timm, and random erasing."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Share, checked
from tether.core.types import ImageSpec
from tether.data.augment import uniforms
from tether.data.placement import Placement

_ONE_AT_A_TIME = threading.Lock()
_TRIES = 10
_AREA, _ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # arXiv 1708.04896; timm's defaults
_PARTS = re.compile(r"rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t\w+))*")


@contextlib.contextmanager
def seeded(draw: int) -> Iterator[None]:
    """Python's and NumPy's own generators start from ``draw`` inside, one thread at a time; afterwards as before.

    For libraries that draw from them, as timm does.
    """
    with _ONE_AT_A_TIME:
        kept = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm draws from it
        random.seed(draw)
        np.random.seed(draw % 2**32)  # noqa: NPY002 - its old generator takes 32 bits
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])  # noqa: NPY002 - as it was found


class LabelAugment:
    """A few of timm's changes of colour and shape for each image, then noise in a rectangle of some of them.

    An ``data.augment.Augment``: what happens to a row depends on its 64 random bits alone. Boxes and masks do not
    follow what is turned or sheared, and words like "left" or "red" may be wrong afterwards.

    Source: arXiv 1909.13719 (RandAugment), by timm; arXiv 1708.04896 (random erasing), each pixel drawn from a normal
    law of the model's mean and standard deviation, as timm's mode ``pixel`` has it.

    Example:
        >>> import numpy as np, torch
        >>> from tether.core.types import ImageSpec
        >>> from tether.methods.ft_clip.label_augment import LabelAugment
        >>> change = LabelAugment(ImageSpec(size=(32, 32)), erase=1.0)
        >>> pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        >>> once, again = (change(pixels, draws=np.array([1, 2], np.uint64)) for _ in range(2))
        >>> bool((once == again).all()), bool((once[0] == once[1]).all())
        (True, False)
    """

    @checked
    def __init__(self, spec: ImageSpec, *, rand: str | None = "rand-m9-mstd0.5-inc1", erase: Share = 0.25) -> None:
        """Take the settings.

        Args:
            spec: of the images, as the model wants them: size, mean and standard deviation.
            rand: timm's words for a RandAugment; None leaves it out.
            erase: chance of a rectangle, of 2 to 33 % of the area.

        Raises:
            InputError: words that are none of a RandAugment.
        """
        if rand is not None and not _PARTS.fullmatch(rand):
            raise InputError(f"rand: expected words such as 'rand-m9-mstd0.5-inc1', got {rand!r}")
        self.rand, self.erase = rand, erase
        self._mean, self._std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
        self._change = None if rand is None else _timm_change(rand, spec)

    def __call__(self, pixels: UInt8[Tensor, "b 3 h w"], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 h w"]:
        """See Augment."""
        return torch.stack([self._row(row, draw) for row, draw in zip(pixels, draws, strict=True)])

    def placements(self, draws: np.ndarray, *, size: tuple[int, int]) -> Sequence[Placement]:
        """The frame stays; inside it things are turned and sheared, so what is said here is no guide for boxes."""
        return [Placement()] * len(draws)

    def _row(self, pixels: UInt8[Tensor, "3 h w"], draw: np.uint64) -> UInt8[Tensor, "3 h w"]:
        if self._change is not None:
            from PIL import Image

            image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            with seeded(int(draw)):
                changed = np.array(self._change(image))
            pixels = torch.from_numpy(changed).permute(2, 0, 1)
        return self._erased(pixels, draw)

    def _erased(self, pixels: UInt8[Tensor, "3 h w"], draw: np.uint64) -> UInt8[Tensor, "3 h w"]:
        chance = uniforms(np.array([draw], np.uint64), count=1 + 4 * _TRIES, salt="erase")[0].tolist()
        if chance[0] >= self.erase:
            return pixels
        height, width = pixels.shape[1:]
        for area, aspect, down, right in zip(*(chance[1 + part :: 4] for part in range(4)), strict=True):
            size = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
            ratio = math.exp(math.log(_ASPECT[0]) + (math.log(_ASPECT[1]) - math.log(_ASPECT[0])) * aspect)
            rows, columns = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
            if 0 < rows < height and 0 < columns < width:
                top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
                generator = torch.Generator().manual_seed(int(draw) % 2**63)
                noise = self._mean + self._std * torch.randn(3, rows, columns, generator=generator)
                pixels = pixels.clone()
                pixels[:, top : top + rows, left : left + columns] = (255 * noise).clamp(0, 255).round().byte()
                break
        return pixels


def _timm_change(words: str, spec: ImageSpec) -> Callable[[Any], Any]:
    """From one image of Pillow to another."""
    from PIL.Image import Resampling
    from timm.data.auto_augment import rand_augment_transform

    change = rand_augment_transform(
        words,
        {
            "translate_const": int(0.45 * min(spec.size)),
            "img_mean": tuple(min(255, round(255 * value)) for value in spec.mean),
            "interpolation": Resampling[spec.interpolation.upper()],
        },
    )
    for one in change.ops:
        if one.name.startswith("Posterize"):
            one.aug_fn = functools.partial(_posterised, one.aug_fn)
    return change


def _posterised(change: Callable[..., Any], image: Any, bits: int, **settings: Any) -> Any:
    """At least one bit is left: at its strongest timm asks for none, which Pillow refuses."""
    return change(image, max(1, bits), **settings)
