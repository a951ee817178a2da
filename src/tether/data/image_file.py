"""The one place where Pillow opens files from outside: only the formats that are meant, within limits of cost."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tether.core.atomic_io import read_bytes
from tether.core.errors import InputError, reason_of
from tether.data.image_headers import check_headers, jpeg_frame

if TYPE_CHECKING:
    from PIL import Image as PillowImage

MAX_PIXELS = 89_478_485
"""Largest width x height that is decoded (Pillow's own limit, a quarter of a gigabyte as RGB); more is refused."""
MAX_SIDE = 1_000_000
"""Longest side: images are converted in bands of rows, so that a row must be small."""
MAX_BYTES = 256 * 2**20
"""Largest image file that is read."""
MAX_FRAMES = 10_000
"""Most frames of an animation or a stack of pages that are read."""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
"""What Pillow may open; the rest of its formats are rare, slow, or programs, as PostScript is."""
_MAX_PIXELS = {"WEBP": 5 << 23, "AVIF": 5 << 23, "JPEG2000": 1 << 25, "CMYK": 1 << 26}
"""Less for decoders that hold several copies, so that no image costs more than 1 GB."""
_SLOW = {"bmp_rle", "ppm", "ppm_plain"}  # which Pillow decodes in Python
_SLOW_PIXELS = 1 << 21
_MOST_EXIF = 1 << 17  # its directory may name the same bytes over and over


def image_bytes(path: str | Path, *, name: str = "") -> bytes:
    """The contents of an image file.

    Raises:
        InputError: not a regular file, or above ``MAX_BYTES``; a row's key is said beside the file's name.
    """
    try:
        return read_bytes(path, limit=MAX_BYTES)
    except InputError as error:
        raise InputError(f"{name}: {error}" if name and name != str(path) else str(error)) from None


def image_problem(path: Path) -> str | None:
    """Why ``image_bytes`` would refuse a file, told without reading it; None where it would not."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{path}: no such file"
    except (OSError, ValueError) as error:
        return f"{path}: {reason_of(error)}"
    if not stat.S_ISREG(status.st_mode):
        return f"{path}: no such file, but a folder, a device or a pipe"
    if status.st_size > MAX_BYTES:
        return f"{path}: {status.st_size:,} bytes; at most {MAX_BYTES:,} are read"
    return None if os.access(path, os.R_OK) else f"{path}: permission denied"


@contextlib.contextmanager
def open_image(data: bytes, *, name: str, max_pixels: int | None = MAX_PIXELS) -> Iterator[PillowImage.Image]:
    """An image file in Pillow, its header read and not yet its pixels.

    Args:
        data: the file's bytes; their content decides the format, among ``FORMATS``.
        name: what errors call the image.
        max_pixels: larger ones are refused; None for callers that read the header alone.

    Raises:
        InputError: not an image, too large, built to cost more than its pixels, or broken, also where that shows while
            it is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        check_headers(data)
        with Image.open(BytesIO(data), formats=_formats()) as opened:
            frame = jpeg_frame(data) if opened.format in ("JPEG", "MPO") else None
            if frame is not None and opened.size != (frame[1], frame[0]):
                raise InputError("two frame headers of different size")
            if max_pixels is not None:
                most = min(_MAX_PIXELS.get(each or "", max_pixels) for each in (opened.format, opened.mode))
                slow = any(tile[0] in _SLOW for tile in opened.tile)
                check_size(*opened.size, max_pixels=min(most, _SLOW_PIXELS) if slow else most)
            yield opened
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image ({len(data)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: {reason_of(error)}") from error
    except Exception as error:  # Pillow's plugins raise many kinds for a broken file
        raise InputError(f"{name}: broken image of {len(data)} bytes: {reason_of(error)}") from error


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [each for each in FORMATS if each in Image.OPEN]


def orientation(opened: PillowImage.Image) -> int:
    """How an image lies by its EXIF or XMP mark: 1 to 8, 1 for upright."""
    if len(opened.info.get("exif") or opened.info.get("Raw profile type exif") or b"") > _MOST_EXIF:
        return 1
    found = opened.getexif().get(0x0112, 1)
    return found if found in range(1, 9) else 1


def check_size(width: int, height: int, *, max_pixels: int) -> None:
    """Refuse an image that has too many pixels, in all or in a row, or none."""
    if max(width, height) > MAX_SIDE:
        raise InputError(f"{width} x {height} pixels; a side of more than {MAX_SIDE} is refused")
    if width * height > max_pixels:
        raise InputError(f"{width} x {height} pixels; more than {max_pixels} are refused")
    if width * height == 0:
        raise InputError(f"an image without pixels ({width} x {height})")
