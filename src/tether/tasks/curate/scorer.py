"""How well images and captions fit by the cosine of one model, each image and text encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Whole, checked
from tether.core.types import ImageLike
from tether.data.image_file import image_bytes
from tether.data.images import decode, resize_and_crop
from tether.models.embed import encode_images, encode_texts

ImageInput = ImageLike | UInt8[Tensor, "3 h w"]
REMEMBERED = 65_536
"""Embeddings that are kept of each side; the oldest go first."""
_BATCH = 64


class ClipScorer:
    """Cosine of image and caption; called with both, it gives one score for each pair.

    Embeddings are remembered by what they were made of, so that filters which share a scorer, one with a transform
    and one without, encode only what differs. ``digest`` names the model's weights.

    Args:
        model: any model that ``tether.load`` gives.
        remembered: embeddings kept of each side.
    """

    @checked
    def __init__(self, model: DualEncoder, *, remembered: Whole = REMEMBERED) -> None:
        """Look at the model.

        Raises:
            UnsupportedModelError: it compares embeddings with something else than the cosine.
        """
        check_cosine(model, name="model")
        if not isinstance(model, nn.Module):
            raise InputError(f"model: expected an nn.Module, got {type(model).__name__}")
        self.model: DualEncoder = model
        self.digest = model_digest(model)
        self.remembered = remembered
        self._images: dict[Hashable, Tensor] = {}
        self._texts: dict[Hashable, Tensor] = {}

    def __call__(
        self, images: Sequence[ImageInput] | UInt8[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[np.ndarray, " n"]:
        """(n,) float64 cosines.

        Raises:
            InputError: an image that cannot be decoded, or an embedding without a direction.
        """
        if len(images) != len(texts):
            raise InputError(f"expected one text for each image, got {len(images)} images and {len(texts)} texts")
        if not len(texts):
            return np.zeros(0)
        names = [_name(image) for image in images]
        images = _once(names, list(images), self._images, encode=self._encode_images)
        words = _once(list(texts), list(texts), self._texts, encode=lambda new: encode_texts(self.model, new))
        self._forget()
        return (unit_rows(images, name="image") * unit_rows(words, name="text")).sum(dim=1).numpy()

    def _encode_images(self, images: list[ImageInput]) -> Tensor:
        pixels = (
            torch.stack([fitted(image, self.model) for image in images[start : start + _BATCH]])
            for start in range(0, len(images), _BATCH)
        )
        return encode_images(self.model, pixels)

    def _forget(self) -> None:
        for held in (self._images, self._texts):
            for name in list(held)[: max(0, len(held) - self.remembered)]:
                del held[name]


def check_cosine(model: DualEncoder, *, name: str) -> None:
    """Refuse a model whose embeddings have no direction to compare.

    Raises:
        UnsupportedModelError: it names the model's geometry.
    """
    geometry = geometry_of(model)
    if not geometry.unit:
        raise UnsupportedModelError(
            f"{name}: scores here are cosines, but this model compares by {geometry.name}; take one of CLIP's kind"
        )


def unit_rows(rows: Float[Tensor, "n d"], *, name: str) -> Float[Tensor, "n d"]:
    """Rows of length 1, in float64."""
    rows = rows.double()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if (length == 0).any():
        raise InputError(f"{name} {int(length.argmin())} (counted from 0): its embedding has no direction")
    return rows / length


def _once(
    names: Sequence[Hashable], values: list, held: dict[Hashable, Tensor], *, encode: Callable[[list], Tensor]
) -> Tensor:
    """One row for each value; those whose name is not held are encoded, each name once."""
    new = {name: value for name, value in zip(names, values, strict=True) if name not in held}
    if new:
        held.update(zip(new, encode(list(new.values())), strict=True))
    return torch.stack([held[name] for name in names])


def _name(image: ImageInput) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    if isinstance(image, Path):
        found.update(b"path")
        found.update(image_bytes(image))
    elif isinstance(image, (np.ndarray, Tensor)):
        pixels = np.ascontiguousarray(image.cpu().numpy() if isinstance(image, Tensor) else image)
        found.update(f"{type(image).__name__}{pixels.dtype}{pixels.shape}".encode())
        found.update(pixels.tobytes())
    else:
        found.update(bytes(image))
    return found.digest()


def fitted(image: ImageInput, model: DualEncoder) -> UInt8[Tensor, "3 H W"]:
    """An image as the model wants it, decoded where it is not yet."""
    return resize_and_crop(image if isinstance(image, Tensor) else decode(image), model.image_spec)
