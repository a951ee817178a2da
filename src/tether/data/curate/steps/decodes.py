"""Drop images that cannot be decoded to their last pixel: truncated, corrupt, or none at all."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.curate.engine.step import IMAGE, Stateless, images_of
from tether.data.images import decode


class Decodes(Stateless):
    """Keeps pairs whose image decodes, as training will decode it.

    A header says nothing of what follows it: files that a transfer cut off pass every other rule. Each image is
    decoded once, which takes milliseconds; put it behind the rules that need the header or the caption alone.
    """

    columns: tuple[str, ...] = (IMAGE,)
    refusal = "the image cannot be decoded"

    @checked
    def __init__(self, *, missing: Literal["drop", "keep"] = "keep") -> None:
        """Args: missing: what happens to pairs without an image."""
        self.missing = missing

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs whose image decodes, else 0."""
        images = images_of(rows).to_pylist()
        sound = {image: _decodes(image) for image in {*images} - {None}}  # once for all captions of an image
        return np.array([self.missing == "keep" if image is None else sound[image] for image in images], np.float64)


def _decodes(image: bytes) -> bool:
    try:
        decode(image)
    except InputError:
        return False
    return True
