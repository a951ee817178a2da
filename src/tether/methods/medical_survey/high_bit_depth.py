"""Images of more than 8 bits, whichever file they come in: DICOM, PNG and TIFF of 16 bits, arrays of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tether.core.errors import InputError
from tether.data.dicom import MAX_VALUES, read_dicom
from tether.data.image_file import MAX_FRAMES, image_bytes, open_image
from tether.data.image_headers import gif_frames, is_dicom, tiff_pages
from tether.data.images import bands
from tether.data.intensity_window import DeepImage, brightness

if TYPE_CHECKING:
    from PIL import Image as PillowImage


def read_deep(
    image: bytes | Path | np.ndarray, *, name: str = "", secret: str = "", max_values: int = MAX_VALUES
) -> DeepImage:
    """All frames of an image with their values as they are, for a ``WindowLevel`` to show.

    Args:
        image: a file's bytes or its path (DICOM, or anything Pillow reads: grey of 8, 16 or 32 bits, floats, colour,
            several frames), or an array of numbers (h, w), (frames, h, w), or uint8 (h, w, 3).
        name: what errors call it; a path names itself.
        secret: see ``read_dicom``.
        max_values: larger images are refused before they are decoded.

    Raises:
        MissingExtraError: DICOM without pydicom.
        InputError: no such file, not an image, too large, or broken.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name=name or "image")
    if isinstance(image, Path):
        name, image = name or str(image), image_bytes(image, name=name)
    name = name or "image"
    if is_dicom(image):
        return read_dicom(image, name=name, secret=secret, max_values=max_values)
    return _by_pillow(image, name=name, max_values=max_values)


def _by_pillow(data: bytes, *, name: str, max_values: int) -> DeepImage:
    with open_image(data, name=name, max_pixels=max_values) as opened:
        frames, (width, height) = _extent(opened, data)
        if not 1 <= frames * height * width <= max_values or frames > MAX_FRAMES:
            raise InputError(f"{frames} x {height} x {width} values; at most {max_values} in {MAX_FRAMES} frames")
        grey = opened.mode.startswith("I") or opened.mode in ("F", "L", "1")
        if grey and (opened.format != "GIF" or frames == 1):
            colour = None
        else:
            colour = np.empty((frames, height, width, 3), np.uint8)
        values = np.empty((frames, height, width), np.float32)
        for number in range(frames):
            opened.seek(number)
            opened.load()
            if opened.size != (width, height):
                raise InputError("its frames differ in size")
            for rows, band in bands(opened):
                if colour is None:
                    values[number, rows] = np.asarray(band)
                else:
                    colour[number, rows] = np.asarray(band.convert("RGB"))
                    values[number, rows] = brightness(colour[number, rows])
    return DeepImage(values, colour, None, "normal")


def _extent(opened: PillowImage.Image, data: bytes) -> tuple[int, tuple[int, int]]:
    """Number of frames, and the size that holds all of them; of a phone's several images the first."""
    if opened.format == "GIF":
        frames, width, height = gif_frames(data, most=MAX_FRAMES)
        return frames, (width, height)
    if opened.format == "TIFF":
        return tiff_pages(data, most=MAX_FRAMES), opened.size
    return 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1)), opened.size


def _from_array(values: np.ndarray, *, name: str) -> DeepImage:
    colour = values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
    numbers = np.issubdtype(values.dtype, np.number) and not np.issubdtype(values.dtype, np.complexfloating)
    if values.ndim not in (2, 3) or 0 in values.shape or not numbers:
        raise InputError(f"{name}: expected numbers (h, w) or (frames, h, w), got {values.dtype} {values.shape}")
    frames = values[None] if colour or values.ndim == 2 else values
    if colour:
        return DeepImage(brightness(frames), frames, None, "normal")
    return DeepImage(frames.astype(np.float32), None, None, "normal")
