"""Pictures of more than 8 bits, whichever file they come in: DICOM, PNG and TIFF of 16 bits, arrays of numbers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from tether.core.errors import InputError
from tether.data.dicom import MAX_VALUES, is_dicom, read_dicom
from tether.data.window import DeepImage

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def read_deep(
    image: bytes | Path | np.ndarray, *, name: str = "", secret: str = "", max_values: int = MAX_VALUES
) -> DeepImage:
    """All frames of a picture with their values as they are, for a ``WindowLevel`` to show.

    Args:
        image: a file's bytes or its path (DICOM, or anything Pillow reads: grey of 8, 16 or 32 bits, floats, colour,
            several frames), or an array of numbers (h, w), (frames, h, w), or uint8 (h, w, 3).
        name: what errors call it; a path names itself.
        secret: see ``read_dicom``.
        max_values: larger pictures are refused before they are decoded.

    Raises:
        MissingExtraError: DICOM without pydicom.
        InputError: no such file, not a picture, too large, or broken.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name=name or "picture")
    if isinstance(image, Path):
        name = name or str(image)
        try:
            image = image.read_bytes()
        except OSError as error:
            raise InputError(f"{name}: cannot read it: {error.strerror or error}") from error
    name = name or "picture"
    if is_dicom(image):
        return read_dicom(image, name=name, secret=secret, max_values=max_values)
    return _by_pillow(image, name=name, max_values=max_values)


def _by_pillow(data: bytes, *, name: str, max_values: int) -> DeepImage:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data)) as opened:
            frames = int(getattr(opened, "n_frames", 1))
            count = frames * opened.width * opened.height
            if not 1 <= count <= max_values:
                raise InputError(f"{name}: {frames} x {opened.height} x {opened.width} values; at most {max_values}")
            deep = opened.mode.startswith("I") or opened.mode in ("F", "L", "1")
            mode = None if deep else "RGB"
            found = [
                np.asarray(frame if mode is None else frame.convert(mode)) for frame in ImageSequence.Iterator(opened)
            ]
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture ({len(data)} bytes that start with {data[:12]!r})") from None
    except Exception as error:  # Pillow's plugins raise many kinds for a broken file
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: broken picture of {len(data)} bytes: {text}") from error
    if len({frame.shape for frame in found}) > 1:
        raise InputError(f"{name}: its frames differ in size")
    return _from_frames(np.stack(found))


def _from_array(values: np.ndarray, *, name: str) -> DeepImage:
    colour = values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8
    numbers = np.issubdtype(values.dtype, np.number) and not np.issubdtype(values.dtype, np.complexfloating)
    if values.ndim not in (2, 3) or 0 in values.shape or not numbers:
        raise InputError(f"{name}: expected numbers (h, w) or (frames, h, w), got {values.dtype} {values.shape}")
    return _from_frames(values[None] if colour or values.ndim == 2 else values)


def _from_frames(frames: np.ndarray) -> DeepImage:
    if frames.ndim == 4:
        return DeepImage(frames.astype(np.float32) @ np.array(_LUMA, np.float32), frames, None, "normal")
    return DeepImage(frames.astype(np.float32), None, None, "normal")
