"""A dense function over images of any size: windows of the size it takes, with the mean where they overlap.

Memory is bounded whatever the image: windows go through in batches, and what is added up are maps of patches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Part, Positive, checked
from tether.core.types import ImageSpec
from tether.data.images import resize

Dense = Callable[[Tensor], Float[Tensor, "b k r c"]]
"""(b, 3, h, w) uint8 pixels to maps of k numbers for each patch."""
MOST_PIXELS = 2**26
"""Pixels of an image at the size it is looked at, 200 MB."""


@checked
@dataclass(frozen=True, kw_only=True)
class Windows:
    """How an image of any size is shown to a function that takes one size.

    Attributes:
        size: pixels of the image's short side when it is looked at; None takes the window's own. Both sides are rounded
            to whole patches.
        window: side of the windows; None takes the model's image size. Another one needs a model whose positions can
            be resized, see ``Resizes.resized``.
        stride: from one window to the next, as a share of the window, at most; windows are spread evenly.
        scales: of ``size``, whose maps are averaged. A scaled image that is smaller than a window is padded at its
            right and bottom with the model's mean colour, which is not counted.
        flip: also look at each window mirrored, and average.
        fit: ``windows`` keeps the image's shape. ``whole`` looks once at the whole image, squashed to the window, with
            positions resized for other scales than 1.
        batch_size: windows in one forward.
    """

    size: Count | None = None
    window: Count | None = None
    stride: Part = 0.5
    scales: Annotated[Sequence[Positive], MinLen(1)] = (1.0,)
    flip: bool = False
    fit: Literal["windows", "whole"] = "windows"
    batch_size: Count = 16


def window_maps(
    dense: Dense,
    images: Iterable[UInt8[Tensor, "3 h w"]],
    *,
    spec: ImageSpec,
    grid: tuple[int, int],
    windows: Windows,
) -> Iterator[Float[Tensor, "k R C"]]:
    """The map of each image, at the resolution of patches.

    Windows of neighbouring images share batches. An image is held until its map is done.

    Args:
        dense: the function. With ``fit="whole"`` and several scales it is given images of other sizes, too.
        images: in their own pixels.
        spec: size and mean colour of what the function takes, and how images are resized.
        grid: rows and columns of patches that a window has.
        windows: how they are looked at; ``spec`` has the size of ``windows.window`` already.

    Yields:
        Maps in order, float32 on the CPU; with several scales at the grid of the largest.

    Raises:
        InputError: an image so long or a size so large that more than ``MOST_PIXELS`` would be looked at.

    Example:
        >>> import torch
        >>> from tether.core.types import ImageSpec
        >>> from tether.models.features.windows import Windows, window_maps
        >>> def brightness(pixels):  # one number for each patch of 8 pixels
        ...     return torch.nn.functional.avg_pool2d(pixels.float().mean(1, keepdim=True), 8)
        >>> image = torch.full((3, 100, 250), 7, dtype=torch.uint8)
        >>> spec = ImageSpec(size=(32, 32))
        >>> (found,) = window_maps(brightness, [image], spec=spec, grid=(4, 4), windows=Windows())
        >>> found.shape, found.unique()
        (torch.Size([1, 4, 10]), tensor([7.]))
    """
    waiting: deque[list[_Canvas]] = deque()
    batches: dict[tuple[int, int], list[tuple[_Canvas, int, int]]] = {}
    for pixels in images:
        waiting.append([_canvas(pixels, spec, grid, windows, scale) for scale in windows.scales])
        for canvas in waiting[-1]:
            batch = batches.setdefault(canvas.window, [])
            for top, left in canvas.places():
                batch.append((canvas, top, left))
                if len(batch) == windows.batch_size:
                    _run(dense, batch, flip=windows.flip)
                    batch.clear()
        while waiting and all(canvas.done for canvas in waiting[0]):
            yield _mean_of_scales(waiting.popleft())
    for batch in batches.values():
        if batch:
            _run(dense, batch, flip=windows.flip)
    for canvases in waiting:
        yield _mean_of_scales(canvases)


class _Canvas:
    """An image at one scale, and the maps of its windows added up."""

    def __init__(
        self,
        pixels: Tensor,
        *,
        window: tuple[int, int],
        grid: tuple[int, int],
        cells: tuple[int, int],
        stride: float,
        fill: Tensor,
    ) -> None:
        """``pixels`` fill ``cells`` patches, of which a window of ``window`` pixels shows ``grid``."""
        self.pixels, self.window, self.grid, self.cells, self.fill = pixels, window, grid, cells, fill
        self.starts = [_starts(whole, part, stride) for whole, part in zip(cells, grid, strict=True)]
        self.left = len(self.starts[0]) * len(self.starts[1])
        self.sums: Tensor | None = None
        self.counts = torch.zeros(cells)

    @property
    def done(self) -> bool:
        return self.left == 0

    def places(self) -> Iterator[tuple[int, int]]:
        """First row and column of each window, in patches."""
        return ((top, left) for top in self.starts[0] for left in self.starts[1])

    def cut(self, top: int, left: int) -> UInt8[Tensor, "3 h w"]:
        """The pixels of a window."""
        (height, width), (rows, columns) = self.window, self.grid
        y = min(round(top * height / rows), max(0, self.pixels.shape[1] - height))
        x = min(round(left * width / columns), max(0, self.pixels.shape[2] - width))
        part = self.pixels[:, y : y + height, x : x + width]
        if part.shape[1:] == self.window:
            return part
        padded = self.fill[:, None, None].repeat(1, height, width)
        padded[:, : part.shape[1], : part.shape[2]] = part
        return padded

    def add(self, found: Float[Tensor, "k r c"], top: int, left: int) -> None:
        """Add a window's map; what lies beyond the image is left out."""
        if self.sums is None:
            self.sums = torch.zeros(len(found), *self.cells)
        part = self.sums[:, top : top + found.shape[1], left : left + found.shape[2]]
        part += found[:, : part.shape[1], : part.shape[2]]
        self.counts[top : top + found.shape[1], left : left + found.shape[2]] += 1
        self.left -= 1
        if self.done:
            self.pixels = self.pixels[:, :0, :0]

    def mean(self) -> Float[Tensor, "k R C"]:
        assert self.sums is not None  # each canvas has at least one window
        return self.sums / self.counts


def _canvas(pixels: Tensor, spec: ImageSpec, grid: tuple[int, int], windows: Windows, scale: float) -> _Canvas:
    window = spec.size
    cell = (window[0] / grid[0], window[1] / grid[1])
    if windows.fit == "whole":
        sides = (window[0] * scale, window[1] * scale)
    else:
        short = (windows.size or min(window)) * scale / min(pixels.shape[1:])
        sides = (pixels.shape[1] * short, pixels.shape[2] * short)
    cells = (max(1, round(sides[0] / cell[0])), max(1, round(sides[1] / cell[1])))
    height, width = round(cells[0] * cell[0]), round(cells[1] * cell[1])
    if height * width > MOST_PIXELS:
        own = f"{pixels.shape[2]} x {pixels.shape[1]}"
        raise InputError(
            f"an image of {own} pixels would be looked at as {width} x {height}, more than {MOST_PIXELS:,} pixels; "
            "give a smaller size, or cut it"
        )
    resized = resize(pixels, height, width, spec.interpolation)
    if windows.fit == "whole":
        window, grid = (height, width), cells
    fill = (torch.tensor(spec.mean) * 255).round().to(torch.uint8)
    return _Canvas(resized, window=window, grid=grid, cells=cells, stride=windows.stride, fill=fill)


def _starts(whole: int, part: int, stride: float) -> list[int]:
    """Where windows of ``part`` patches begin that cover ``whole``, evenly, no farther apart than asked for."""
    room = max(0, whole - part)
    steps = -(-room // max(1, round(stride * part)))
    return [round(room * step / steps) for step in range(steps + 1)] if steps else [0]


@torch.no_grad()
def _run(dense: Dense, batch: Sequence[tuple[_Canvas, int, int]], *, flip: bool) -> None:
    pixels = torch.stack([canvas.cut(top, left) for canvas, top, left in batch])
    found = dense(pixels)
    if flip:
        found = (found + dense(pixels.flip(3)).flip(3)) / 2
    found = found.float().cpu()
    grid = batch[0][0].grid
    if found.ndim != 4 or tuple(found.shape[2:]) != grid:
        raise InputError(f"dense function: expected maps (b, k, {grid[0]}, {grid[1]}), got {tuple(found.shape)}")
    for (canvas, top, left), one in zip(batch, found, strict=True):
        canvas.add(one, top, left)


def _mean_of_scales(canvases: Sequence[_Canvas]) -> Float[Tensor, "k R C"]:
    maps = [canvas.mean() for canvas in canvases]
    if len(maps) == 1:
        return maps[0]
    largest = max((tuple(one.shape[1:]) for one in maps), key=lambda size: size[0] * size[1])
    return torch.stack([F.interpolate(one[None], largest, mode="bilinear")[0] for one in maps]).mean(dim=0)


def label_map(scores: Float[Tensor, "k r c"], *, size: tuple[int, int], most: int = 2**22) -> UInt8[Tensor, "h w"]:
    """The class of the highest score at each pixel, scores being enlarged bilinearly; ties go to the first class.

    The same as ``F.interpolate(...).argmax``, but a few rows of pixels at a time.

    Args:
        scores: of at most 255 classes.
        size: height and width in pixels.
        most: numbers that are held at once.
    """
    down, across = _enlarging(scores.shape[1], size[0]).T, _enlarging(scores.shape[2], size[1])
    found = torch.empty(size, dtype=torch.uint8)
    step = max(1, most // (len(scores) * size[1]))
    for start in range(0, size[0], step):
        part = slice(start, start + step)
        found[part] = (down[part] @ scores.float() @ across).max(dim=0).indices  # argmax takes five times as long
    return found


def _enlarging(cells: int, pixels: int) -> Float[Tensor, "n m"]:
    """The matrix that interpolates linearly, as ``F.interpolate`` does."""
    return F.interpolate(torch.eye(cells)[None], pixels, mode="linear")[0]
