"""Which class each pixel of an image belongs to: what a method that cuts images into classes answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from tether.core.errors import InputError
from tether.core.palette import MOST_COLOURS, default_palette, palette_of
from tether.core.ranges import Share, checked

if TYPE_CHECKING:
    from PIL import Image as PillowImage

BACKGROUND = "background"
"""Name of the class of all that is none of the others; it is not painted and has neither boxes nor annotations."""
NO_CLASS = 255
"""Number of a pixel without a class."""
LONGEST_SHOWN = 512
"""Pixels of the long side of what a notebook shows."""


@dataclass(frozen=True, slots=True)
class ClassBox:
    """A box around one connected piece of a class.

    Attributes:
        name: of the class.
        box: x0, y0, x1, y1 in pixels, the last two exclusive.
        area: pixels of the piece.
    """

    name: str
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The class of each pixel of one image.

    Attributes:
        classes: k names, at most 255. The one called ``background`` stands for what is none of the others.
        labels: (h, w) uint8 number of a class at each pixel, ``NO_CLASS`` for none.
        scores: (k, r, c) float16 or float32, the highest where a class is likeliest, at the image's size or coarser; or
            None.
        palette: (k, 3) uint8 colours; None takes ``core.palette.default_palette``, with black for the background.

    Raises:
        InputError: no class or one twice, labels that are no such numbers, scores or colours that do not fit.

    Example:
        >>> import numpy as np
        >>> from tether.core.masks import Masks
        >>> masks = Masks(("road", "sky"), np.array([[1, 1, 1], [0, 0, 1]], dtype=np.uint8))
        >>> masks.areas()
        {'road': 0.3333333333333333, 'sky': 0.6666666666666666}
        >>> masks.boxes()[0]
        ClassBox(name='road', box=(0, 1, 2, 2), area=2)
    """

    classes: tuple[str, ...]
    labels: UInt8[np.ndarray, "h w"]
    scores: Float[np.ndarray, "k r c"] | None = None
    palette: UInt8[np.ndarray, "k 3"] | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together, and choose colours where there are none."""
        check_names(self.classes)
        count = len(self.classes)
        if self.labels.ndim != 2 or not self.labels.size or self.labels.dtype != np.uint8:
            raise InputError(f"labels: expected (h, w) uint8, got {self.labels.dtype} {self.labels.shape}")
        if (strange := (self.labels >= count) & (self.labels != NO_CLASS)).any():
            number = int(self.labels[strange][0])
            raise InputError(f"labels: expected 0 to {count - 1}, or {NO_CLASS} for none, got {number}")
        if self.scores is not None:
            told = f"{self.scores.dtype} {self.scores.shape}"
            if self.scores.ndim != 3 or len(self.scores) != count or self.scores.dtype not in (np.float16, np.float32):
                raise InputError(f"scores: expected ({count}, r, c) float16 or float32, got {told}")
        colours = own_palette(self.classes) if self.palette is None else palette_of(self.palette, count=count)
        object.__setattr__(self, "palette", colours)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape

    @property
    def background(self) -> int | None:
        """Number of the class ``background``; None where there is none."""
        return self.classes.index(BACKGROUND) if BACKGROUND in self.classes else None

    def mask(self, name: str) -> Bool[np.ndarray, "h w"]:
        """Where a class is.

        Raises:
            InputError: no such class.
        """
        if name not in self.classes:
            raise InputError(f"class {name!r}: expected one of {', '.join(self.classes)}")
        return self.labels == self.classes.index(name)

    def areas(self) -> dict[str, float]:
        """Share of the image that each class covers, 0 to 1."""
        counts = np.bincount(self.labels.reshape(-1), minlength=NO_CLASS + 1)
        return {name: int(counts[number]) / self.labels.size for number, name in enumerate(self.classes)}

    @checked
    def boxes(self, *, min_area: Share = 0.001) -> list[ClassBox]:
        """Boxes around the connected pieces of each class, corners counted as touching, the largest piece first.

        Args:
            min_area: share of the image; smaller pieces are left out.
        """
        from scipy import ndimage

        found = []
        around = ndimage.find_objects(self.labels.astype(np.int32) + 1, max_label=len(self.classes))
        for number in self._shown():
            if around[number] is None:  # as most of many classes
                continue
            pieces, count = ndimage.label(self.labels[around[number]] == number, structure=np.ones((3, 3)))
            top, left = (side.start for side in around[number])
            sizes = np.bincount(pieces.reshape(-1), minlength=count + 1)[1:]
            slices = ndimage.find_objects(pieces)
            for piece in np.argsort(-sizes, kind="stable"):
                if sizes[piece] < max(1, min_area * self.labels.size):
                    break
                down, across = slices[piece]
                box = (left + across.start, top + down.start, left + across.stop, top + down.stop)
                found.append(ClassBox(self.classes[number], box, int(sizes[piece])))
        return found

    def to_coco(self, image_id: int, *, first_id: int = 1) -> list[dict[str, Any]]:
        """Annotations of the COCO format: one for each class in the image, except the background.

        Masks are uncompressed run lengths, column by column, which pycocotools reads. The category of class n is n + 1.

        Args:
            image_id: of the image.
            first_id: of the first annotation; the others count up.
        """
        found: list[dict[str, Any]] = []
        for number in self._shown():
            mask = self.labels == number
            if not mask.any():
                continue
            down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            x, y = int(across[0]), int(down[0])
            found.append(
                {
                    "id": first_id + len(found),
                    "image_id": image_id,
                    "category_id": number + 1,
                    "segmentation": run_lengths(mask),
                    "area": int(mask.sum()),
                    "bbox": [x, y, int(across[-1]) + 1 - x, int(down[-1]) + 1 - y],
                    "iscrowd": 0,
                }
            )
        return found

    def categories(self) -> list[dict[str, Any]]:
        """The classes as COCO's categories, without the background."""
        return [{"id": number + 1, "name": self.classes[number]} for number in self._shown()]

    def to_image(self) -> PillowImage.Image:
        """A palette image whose values are class numbers; a pixel without a class is 255, white."""
        from PIL import Image

        assert self.palette is not None  # __post_init__ chose one
        image = Image.fromarray(self.labels)
        colours = np.full((NO_CLASS + 1, 3), 255, dtype=np.uint8)
        colours[: len(self.palette)] = self.palette
        image.putpalette(colours.tobytes())
        return image

    @checked
    def overlay(self, image: UInt8[np.ndarray, "h w 3"], *, strength: Share = 0.5) -> UInt8[np.ndarray, "h w 3"]:
        """An image painted with the colours of its classes, with a light line between them.

        Args:
            image: (h, w, 3) uint8 pixels of the same size.
            strength: of the colours, 0 to 1.

        Raises:
            InputError: an image of another size.
        """
        if image.shape != (*self.size, 3) or image.dtype != np.uint8:
            raise InputError(f"image: expected uint8 {(*self.size, 3)}, got {image.dtype} {image.shape}")
        assert self.palette is not None
        colours = np.zeros((NO_CLASS + 1, 3), dtype=np.float32)
        weights = np.zeros((NO_CLASS + 1, 1), dtype=np.float32)
        shown = self._shown()
        colours[shown], weights[shown] = self.palette[shown], strength
        weight = weights[self.labels]
        painted = image * (1 - weight) + colours[self.labels] * weight
        edge = self.borders()
        painted[edge] = 0.25 * painted[edge] + 0.75 * 255
        return painted.round().astype(np.uint8)

    def borders(self) -> Bool[np.ndarray, "h w"]:
        """Pixels whose neighbour to the right or below has another class."""
        edge = np.zeros(self.size, dtype=bool)
        edge[:, :-1] |= self.labels[:, 1:] != self.labels[:, :-1]
        edge[:-1] |= self.labels[1:] != self.labels[:-1]
        return edge

    def _shown(self) -> list[int]:
        return [number for number in range(len(self.classes)) if number != self.background]

    def __repr__(self) -> str:
        """Size, and how much each class covers."""
        shares = sorted(self.areas().items(), key=lambda one: -one[1])
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares if share)
        return f"Masks({self.size[1]} x {self.size[0]}: {told})"

    def _repr_html_(self) -> str:
        from PIL import Image

        assert self.palette is not None
        small = self.to_image().convert("RGB")
        small.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN), Image.Resampling.NEAREST)
        file = io.BytesIO()
        small.save(file, format="PNG")
        shown = f"<img alt='' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"
        keys = "".join(
            f"<span style='margin-right:1em;white-space:nowrap'><i style='display:inline-block;width:.9em;height:.9em;"
            f"border-radius:.2em;background:rgb({','.join(map(str, colour.tolist()))})'></i> {escape(name)} {share:.0%}"
            "</span>"
            for colour, (name, share) in zip(self.palette, self.areas().items(), strict=True)
            if share
        )
        return f"{shown}<div>{keys}</div>"


def check_names(classes: Sequence[str]) -> None:
    """Refuse names of classes that a label cannot tell apart.

    Raises:
        InputError: none, more than 255, or one twice.
    """
    if not 1 <= len(classes) <= MOST_COLOURS:
        raise InputError(f"classes: expected 1 to {MOST_COLOURS}, got {len(classes)}")
    if twice := [name for name in classes if list(classes).count(name) > 1]:
        raise InputError(f"classes: {twice[0]!r} comes twice")


def own_palette(classes: Sequence[str]) -> UInt8[np.ndarray, "k 3"]:
    """The default colours of classes: black for the background."""
    named = iter(default_palette(len(classes)))
    return np.stack([np.zeros(3, dtype=np.uint8) if name == BACKGROUND else next(named) for name in classes])


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: ``size`` (height, width), and ``counts`` of zeros and ones in turn by column."""
    flat = mask.reshape(-1, order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *turns, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
