"""Views of an image: random resized crops, or the whole image at another size, each with its place in the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import MaxLen
from jaxtyping import UInt8
from torch import Tensor

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Part, Positive, Share, checked
from tether.core.types import ImageSpec, Side
from tether.data.augment import AUGMENTATIONS, Augment, uniforms
from tether.data.images import fitted, resize, resize_and_crop
from tether.data.placement import Placement, Window

_TRIES = 10


class Crop:
    """One view of every image: a random window, resized, at times mirrored.

    The window is drawn as torchvision's ``RandomResizedCrop`` draws it: its area evenly within ``scale``, the logarithm
    of its aspect evenly within ``ratio``, its place evenly; what does not fit in ten tries is the largest window of the
    nearest aspect at the centre. Source: arXiv 1409.4842, section 6.

    Example:
        >>> import torch
        >>> from tether.core.types import ImageSpec
        >>> from tether.data.crops import Crop
        >>> crop = Crop(size=4, scale=(0.25, 0.25), ratio=(1.0, 1.0))
        >>> spec = crop.spec(ImageSpec((224, 224)))
        >>> placement = crop.draw("view", draw=7, height=8, width=8, spec=spec, others={})
        >>> placement.box
        (0.25, 0.0, 0.75, 0.5)
        >>> pixels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8).expand(3, 8, 8)  # 8 * row + column
        >>> crop.cut(pixels, placement, spec)[0, 0].tolist()
        [2, 3, 4, 5]
    """

    @checked
    def __init__(
        self,
        *,
        size: Side | tuple[Side, Side] | None = None,
        scale: tuple[Part, Part] | None = None,
        ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        flip: Share = 0.0,
        augment: str | dict[str, Any] | None = None,
        around: Annotated[Sequence[str], MaxLen(64)] = (),
    ) -> None:
        """Take the settings.

        Args:
            size: pixels of a side, or height and width; None is the model's.
            scale: least and largest area of the window, as shares of the image's; None is the whole image, fitted as
                the model's evaluation does.
            ratio: least and largest width over height of the window, in pixels.
            flip: chance to exchange left and right; wrong for lettering and for words like "left".
            augment: change of this view's pixels, one of ``AUGMENTATIONS``; for ``image`` it is the run's ``augment``.
            around: views named before; the window then holds theirs, grown on each side by an even draw up to the
                image's border (A-CLIP's reference box), and there is no ``scale``.
        """
        if scale is not None and around:
            raise InputError("around: the window is that of other views, grown; expected no scale")
        for name, pair in (("scale", scale), ("ratio", ratio)):
            if pair is not None and pair[0] > pair[1]:
                raise InputError(f"{name}: expected the smaller number first, got {list(pair)}")
        self._size = (size, size) if isinstance(size, int) else size
        self._scale, self._ratio, self._flip, self.around = scale, ratio, flip, tuple(around)
        self.augment: Augment | None = None if augment is None else build(augment, AUGMENTATIONS, where="augment")

    def spec(self, spec: ImageSpec) -> ImageSpec:
        """How the model wants its images, at the size of this view."""
        return spec if self._size is None else replace(spec, size=self._size, resized=None)

    def draw(
        self, name: str, *, draw: int, height: int, width: int, spec: ImageSpec, others: Mapping[str, Placement]
    ) -> Placement:
        """Where the view of one image lies, before ``augment``.

        Args:
            name: of the view; views of different names differ.
            draw: 64 random bits of this seed, epoch and row.
            height: of the image in pixels.
            width: likewise.
            spec: as ``spec`` gives it.
            others: where the views named before lie.
        """
        chance = uniforms(np.array([draw], np.uint64), count=2 * _TRIES + 5, salt=f"crop {name}")[0].tolist()
        flipped = chance[0] < self._flip
        if self.around:
            boxes = [others[other].box for other in self.around]
            box = _grown(boxes, chance[1:5], height=height, width=width)
        elif self._scale is not None:
            box = self._window(chance[1:], height=height, width=width)
        else:
            box = fitted(height, width, spec).box
        return Placement(box, flipped)

    def _window(self, chance: Sequence[float], *, height: int, width: int) -> Window:
        assert self._scale is not None  # the caller asked
        low, high = (math.log(ratio) for ratio in self._ratio)
        rows = columns = 0
        for area, aspect in zip(chance[0 : 2 * _TRIES : 2], chance[1 : 2 * _TRIES : 2], strict=True):
            wanted = height * width * (self._scale[0] + area * (self._scale[1] - self._scale[0]))
            ratio = math.exp(low + aspect * (high - low))
            columns, rows = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
            if 0 < columns <= width and 0 < rows <= height:
                left, top = (
                    int(share * (side - cut + 1))
                    for share, side, cut in zip(chance[-2:], (width, height), (columns, rows), strict=True)
                )
                return left / width, top / height, (left + columns) / width, (top + rows) / height
        rows, columns = height, width
        if width / height < self._ratio[0]:
            rows = max(1, min(height, round(width / self._ratio[0])))
        elif width / height > self._ratio[1]:
            columns = max(1, min(width, round(height * self._ratio[1])))
        left, top = (width - columns) // 2, (height - rows) // 2
        return left / width, top / height, (left + columns) / width, (top + rows) / height

    def cut(self, pixels: UInt8[Tensor, "3 h w"], placement: Placement, spec: ImageSpec) -> UInt8[Tensor, "3 H W"]:
        """The view's pixels, before ``augment``.

        Args:
            pixels: the whole image.
            placement: as ``draw`` gives it.
            spec: as ``spec`` gives it.
        """
        if self._scale is None and not self.around:
            view = resize_and_crop(pixels, spec)
        else:
            height, width = pixels.shape[1:]
            x0, y0, x1, y1 = placement.box
            window = pixels[:, round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
            view = resize(window, *spec.size, spec.interpolation)
        return view.flip(2) if placement.flipped else view

    def changed(self, name: str, views: Sequence[Tensor], *, draws: np.ndarray) -> UInt8[Tensor, "b 3 H W"]:
        """The views of a batch below each other, after ``augment``."""
        pixels = torch.stack(list(views))
        return pixels if self.augment is None else self.augment(pixels, draws=own_draws(draws, name))

    def moved(self, name: str, placement: Placement, *, draw: int, spec: ImageSpec) -> Placement:
        """Where the view of one image lies after ``augment``."""
        if self.augment is None:
            return placement
        draws = own_draws(np.array([draw], np.uint64), name)
        return placement.then(self.augment.placements(draws, size=spec.size)[0])


def own_draws(draws: np.ndarray, name: str) -> np.ndarray:
    """(b,) uint64 bits for one of several views, from those of the rows."""
    return draws ^ np.uint64(hash_int(name, salt="view"))


def _grown(boxes: Sequence[Window], chance: Sequence[float], *, height: int, width: int) -> Window:
    """The box around others, moved out on each side by a share of what is left there, to whole pixels."""
    left = math.floor(min(max(box[0], 0) for box in boxes) * width * chance[0] + 1e-6)
    top = math.floor(min(max(box[1], 0) for box in boxes) * height * chance[1] + 1e-6)
    right, bottom = max(min(box[2], 1) for box in boxes) * width, max(min(box[3], 1) for box in boxes) * height
    right = math.ceil(right + (width - right) * chance[2] - 1e-6)
    bottom = math.ceil(bottom + (height - bottom) * chance[3] - 1e-6)
    return left / width, top / height, right / width, bottom / height
