"""What every detector of defects does, and how images of any size are looked at by those here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import ImageLike
from tether.data.images import decode, resize


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What a detector reads of one image, before it is compared with anything; float32 on the CPU.

    Attributes:
        size: height and width of the image in pixels.
        grid: rows and columns of patches.
        rows: tables of rows, of the image or its parts, as the detector orders them.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    rows: tuple[Float[Tensor, "n d"], ...]


@runtime_checkable
class Detector(Protocol, metaclass=ByAttributes):
    """Says how unusual an image is, and where, from words, from images without defects, or from both.

    ``look`` is the dear part. What it gives is remembered (``remember``) or compared with what is remembered
    (``judge``), so that a threshold can be fitted without a second look.

    Attributes:
        needs_good: whether it can do nothing without images that have no defect.
        name: what the images show, once prepared.
    """

    needs_good: ClassVar[bool]
    name: str

    def prepare(self, model: DualEncoder, name: str) -> Detector:
        """Get ready.

        Args:
            model: any model that ``tether.load`` gives and the method can use.
            name: what the images show, such as ``magnetic tile``.

        Returns:
            This detector, which remembers nothing.
        """
        ...

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """Read images of any size; the detectors here also take files, Pillow images, bytes and arrays."""
        ...

    def remember(self, good: Sequence[ImageFeatures]) -> Detector:
        """Take these images, and no others, for normal; none forgets all."""
        ...

    def judge(self, look: ImageFeatures) -> AnomalyMap:
        """Score one image and its places."""
        ...

    def predict(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[AnomalyMap]:
        """``judge`` what ``look`` gives."""
        return [self.judge(look) for look in self.look(images)]

    def settings(self) -> dict[str, Any]:
        """Plain values that decide its maps beside the model, the good images and the image, once prepared."""
        ...


@runtime_checkable
class Learning(Protocol, metaclass=ByAttributes):
    """A ``Detector`` that learns something dear from good images, which a second run need not learn anew."""

    def keep_in(self, folder: Path | None) -> None:
        """Say where ``remember`` keeps what it learns, by all that decides it, and looks for it before it learns.

        Args:
            folder: made when it is needed; None keeps nothing.
        """
        ...


def pixels_of(images: Sequence[ImageLike | UInt8[Tensor, "3 h w"]]) -> list[UInt8[Tensor, "3 h w"]]:
    """Pixels of images; what is no tensor goes through ``data.images.decode``.

    Raises:
        InputError: what is no image or no pixels; it names the first.
    """
    found = list[Tensor]()
    for number, image in enumerate(images):
        pixels = image if isinstance(image, Tensor) else decode(image, name=f"image {number}")
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
            raise InputError(f"image {number}: expected uint8 (3, h, w), got {pixels.dtype} {tuple(pixels.shape)}")
        found.append(pixels)
    return found


@torch.no_grad()
def looks_of(
    read: Callable[[UInt8[Tensor, "b 3 h w"]], Sequence[Float[Tensor, "b n d"]]],
    images: Sequence[UInt8[Tensor, "3 h w"]],
    *,
    model: DualEncoder,
    grid: tuple[int, int],
    batch_size: int,
) -> list[ImageFeatures]:
    """What is read of images of any size, each brought to the model's size as a whole.

    Args:
        read: gives tables of images of the model's size.
        images: any.
        model: whose size and device it is.
        grid: rows and columns of patches.
        batch_size: images that are read at once.

    Raises:
        InputError: no pixels, or embeddings that are not finite.
    """
    images = pixels_of(images)
    spec, found = model.image_spec, list[ImageFeatures]()
    for start in range(0, len(images), batch_size):
        some = images[start : start + batch_size]
        pixels = torch.stack([resize(one, *spec.size, spec.interpolation) for one in some])
        tables = [table.float().cpu() for table in read(pixels.to(model.logit_scale.device))]
        if not all(bool(table.isfinite().all()) for table in tables):
            raise InputError("images: their embeddings are not finite; the model's weights are damaged")
        for number, image in enumerate(some):
            size = (image.shape[1], image.shape[2])
            found.append(ImageFeatures(size, grid, tuple(table[number] for table in tables)))
    return found


def unprepared(detector: object) -> InputError:
    """The error of a detector that was not told the model."""
    return InputError(f"{type(detector).__name__}: prepare(model, name) comes before anything else")
