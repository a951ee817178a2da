"""Drop images that are too small, too large or too narrow, by their headers alone."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.data.curate.engine.step import IMAGE, Stateless, images_of
from tether.data.image_file import open_image
from tether.data.image_headers import JPEG, PNG, jpeg_frame

_BEGINNING = 2_048  # bytes of a file that mostly hold its header


class ImageSize(Stateless):
    """Keeps pairs whose image has a usable size and shape.

    Nothing is decoded: an image whose header is sound and whose pixels are not passes. An image that stands on its
    side by an EXIF mark is measured as it lies; neither rule minds.
    """

    columns: tuple[str, ...] = (IMAGE,)

    @checked
    def __init__(
        self,
        *,
        least_side: Count = 32,
        most_side: Count | None = None,
        most_aspect: Annotated[float, Ge(1)] | None = 3.0,
        unreadable: Literal["drop", "keep"] = "drop",
        missing: Literal["drop", "keep"] = "keep",
    ) -> None:
        """Set the rules.

        Args:
            least_side: of the shorter side, pixels, at least 1 (which lets all pass).
            most_side: of the longer side, pixels, or None for any.
            most_aspect: longer by shorter side, at least 1, or None for any.
            unreadable: what happens to bytes that are no image.
            missing: what happens to pairs without an image.
        """
        if most_side is not None and most_side < least_side:
            raise InputError(f"most_side: expected at least least_side={least_side}, got {most_side}")
        self.least_side, self.most_side, self.most_aspect = least_side, most_side, most_aspect
        self.unreadable, self.missing = unreadable, missing
        limits = [f"a side below {least_side}"]
        limits += [f"one above {most_side}"] if most_side else []
        limits += [f"sides of more than {most_aspect:g} to 1"] if most_aspect else []
        limits += ["no readable header"] if unreadable == "drop" else []
        limits += ["no image"] if missing == "drop" else []
        self.refusal = f"the image has {' or '.join(limits)}"

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs whose image passes, else 0."""
        images = images_of(rows)
        there = np.asarray(images.is_valid())
        sizes = _sizes(images.drop_null())
        short, long = sizes.min(axis=1), sizes.max(axis=1)
        passed = short >= self.least_side
        if self.most_side is not None:
            passed &= long <= self.most_side
        if self.most_aspect is not None:
            passed &= long <= self.most_aspect * short
        passed[short == 0] = self.unreadable == "keep"
        kept = np.full(rows.num_rows, float(self.missing == "keep"))
        kept[there] = passed
        return kept


def _sizes(images: pa.BinaryArray) -> Int[np.ndarray, "n 2"]:
    """Width and height of each; the whole file is taken in hand only where its beginning does not tell."""
    found = [image_size(data) for data in pc.binary_slice(images, 0, _BEGINNING).to_pylist()]
    for index in [index for index, size in enumerate(found) if size == (0, 0)]:
        found[index] = image_size(images[index].as_py())
    return np.array(found, np.int64).reshape(-1, 2)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded image from its header; (0, 0) for what is no image."""
    if data.startswith(PNG) and data[12:16] == b"IHDR":
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    frame = jpeg_frame(data) if data.startswith(JPEG) else None
    if frame is not None:
        return frame[1], frame[0]
    try:
        with open_image(data, name="image", max_pixels=None) as opened:
            return opened.size
    except InputError:
        return 0, 0
