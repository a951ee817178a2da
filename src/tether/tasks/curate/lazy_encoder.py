"""The model behind a step of curation: a name until it is needed, loaded once in each process, its weights' digest."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.data.images import decode
from tether.models.embed import encode_images, encode_texts
from tether.models.load import load
from tether.tasks.curate.score_filter import ImageTransform, transformed
from tether.tasks.curate.scorer import check_cosine, fitted

BATCH = 64
_HELD = 2  # models of one process; a recipe rarely asks two
_SHOWN = 12  # digits of a digest that an error names


class Backbone:
    """A model that a recipe names, embedding images and captions as rows of length 1.

    It travels as its name and digest, never as weights: each process loads it at its first image or caption. A
    process that finds other weights under the name refuses.

    Args:
        name: what ``tether.load`` takes.
        device: where it computes.
    """

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        """Take the name; nothing is loaded yet."""
        if not isinstance(name, str) or not name:
            raise InputError(f"model: expected what tether.load takes, such as open_clip:ViT-B-32/TAG, got {name!r}")
        self.name, self.device = name, device
        self._digest: str | None = None

    @property
    def model(self) -> DualEncoder:
        """The loaded model.

        Raises:
            InputError: no such model, or its weights are not the ones that this step began with.
            UnsupportedModelError: it compares embeddings with something else than the cosine.
        """
        model, digest = _loaded(self.name, self.device)
        if self._digest is not None and self._digest != digest:
            raise InputError(
                f"model {self.name}: its weights have digest {digest[:_SHOWN]} here, the step began with "
                f"{self._digest[:_SHOWN]}; a pool must be curated with one model"
            )
        self._digest = digest
        return model

    @property
    def digest(self) -> str:
        """Of the weights (``core.model_digest``); loads the model where it is not known yet."""
        if self._digest is None:
            _ = self.model
        assert self._digest is not None
        return self._digest

    def check_digest(self, digest: str, *, what: str) -> None:
        """See that something was made with this model."""
        if digest != self.digest:
            raise InputError(
                f"{what} of a model with digest {digest[:_SHOWN]} do not fit {self.name}, whose digest is "
                f"{self.digest[:_SHOWN]}"
            )

    def images(
        self, column: pa.Array | Sequence[bytes | None], *, transforms: Sequence[ImageTransform] = ()
    ) -> tuple[Float[np.ndarray, "n d"], Bool[np.ndarray, " n"]]:
        """Embed encoded images, each distinct one once.

        Args:
            column: the files' bytes, null where there is no image.
            transforms: done to each decoded image, in order.

        Returns:
            (n, d) float32 rows of length 1, and (n,) True where the image could be decoded and embedded; other rows
            are zeros.
        """
        model = self.model
        given = column.to_pylist() if isinstance(column, pa.Array) else list(column)
        distinct = list(dict.fromkeys(image for image in given if image is not None))
        found = {None: -1} | dict.fromkeys(distinct, -1)
        parts: list[Tensor] = []
        count = 0
        for images, pixels in _decoded(distinct, model, transforms):
            vectors = _finite_images(model, pixels)
            for image, vector in zip(images, vectors, strict=True):
                if vector is not None:
                    parts.append(vector)
                    found[image], count = count, count + 1
        place = np.array([found[image] for image in given], np.int64)
        rows = np.zeros((len(given), model.dim), np.float32)
        good = place >= 0
        if count:
            rows[good] = torch.stack(parts).numpy()[place[good]]
        return rows, good

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Embed texts, each distinct one once: (n, d) float32 rows of length 1."""
        rows = encode_texts(self.model, texts)
        length = torch.linalg.vector_norm(rows, dim=1)
        if (length == 0).any():
            raise InputError(f"text {texts[int(length.argmin())]!r}: its embedding has no length")
        return (rows / length[:, None]).numpy()


@functools.lru_cache(maxsize=_HELD)
def _loaded(name: str, device: str) -> tuple[DualEncoder, str]:
    model = load(name, device=device)
    check_cosine(model, name=f"model {name}")
    return model, model_digest(model)


def _decoded(
    images: Sequence[bytes], model: DualEncoder, transforms: Sequence[ImageTransform]
) -> Iterator[tuple[list[bytes], Tensor]]:
    """Images that can be decoded, with their pixels, a batch at a time."""
    held: list[bytes] = []
    pixels: list[Tensor] = []
    for image in images:
        try:
            shown = fitted(transformed(decode(image), transforms), model)
        except InputError:
            continue
        pixels.append(shown)
        held.append(image)
        if len(held) == BATCH:
            yield held, torch.stack(pixels)
            held, pixels = [], []
    if held:
        yield held, torch.stack(pixels)


def _finite_images(model: DualEncoder, pixels: Tensor) -> list[Tensor | None]:
    """One row of length 1 for each image, None where the embedding is not finite or has no length."""
    try:
        rows = list(encode_images(model, [pixels]))
    except InputError:  # it names one image only; a batch that fails is rare enough to look at each
        if len(pixels) == 1:
            return [None]
        return [row for one in pixels.split(1) for row in _finite_images(model, one)]
    lengths = [float(torch.linalg.vector_norm(row)) for row in rows]
    return [row / length if length > 0 else None for row, length in zip(rows, lengths, strict=True)]
