"""Images of papers as a model wants them: RGB, at most 512 pixels, JPEG; the first page of a PDF rendered."""

from __future__ import annotations

import importlib.util
import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from tether.core.errors import InputError, MissingExtraError
from tether.core.guarded import guarded
from tether.core.ranges import Count, checked
from tether.core.types import ImageLike
from tether.data.image_file import MAX_PIXELS
from tether.data.images import decode

SIZE = 512  # arXiv 2311.04711, section 3
_PDF = b"%PDF"
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")

Postscript = Literal["refuse", "ghostscript"]


@checked
def resize_for_clip(
    image: ImageLike, *, size: Count = SIZE, postscript: Postscript = "refuse", name: str = ""
) -> UInt8[np.ndarray, "h w 3"]:
    """An image as RGB with no side above ``size`` pixels, its shape kept; small ones stay as they are.

    The content decides the format. Of a PDF the first page is rendered, at ``size`` pixels, in a
    process of its own that may take 10 s and 1 GB (extra ``figures``).
    PostScript is a program, so it is refused unless asked for; then Ghostscript runs it in its safe mode.

    Source: arXiv 2311.04711, section 3. Transparency is laid over white; the paper's code lets it become black.

    Args:
        image: bytes, a path, or uint8 pixels.
        size: of the longer side, in pixels (>= 1).
        postscript: ``refuse``, or ``ghostscript`` to render EPS with the program ``gs``.
        name: what errors call the image.

    Raises:
        InputError: no image, broken, too large, or PostScript that is refused.
        MissingExtraError: a PDF, and pypdfium2 is not installed.
    """
    from PIL import Image

    data = image if isinstance(image, bytes) else b""
    if data.lstrip()[:4] == _PDF:
        pixels = _first_page(data.lstrip(), size=size, name=name)
    elif data.startswith(_POSTSCRIPT):
        if postscript != "ghostscript":
            raise InputError(f"{name or 'image'}: PostScript, which is a program and is not run")
        pixels = _by_ghostscript(data, name=name)
    else:
        pixels = decode(image, name=name).permute(1, 2, 0).contiguous().numpy()
    if max(pixels.shape[:2]) <= size:
        return pixels
    small = Image.fromarray(pixels)
    small.thumbnail((size, size))
    return np.asarray(small)


def as_jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """JPEG bytes of RGB pixels; 75 is Pillow's quality where none is said, as in the paper's code."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def _first_page(data: bytes, *, size: int, name: str) -> np.ndarray:
    if importlib.util.find_spec("pypdfium2") is None:
        raise MissingExtraError("pypdfium2", extra="figures")
    try:
        found, pixels = guarded("first_page", data=data, size=size)
    except InputError as error:
        raise InputError(f"{name or 'image'}: broken PDF of {len(data)} bytes: {error}") from None
    return np.frombuffer(pixels, np.uint8).reshape(found["shape"])


def _by_ghostscript(data: bytes, *, name: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["EPS"]) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise InputError(f"{name or 'image'}: {opened.width} x {opened.height} pixels are refused")
            return np.asarray(opened.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise InputError(f"{name or 'image'}: PostScript that cannot be rendered: {error}") from error
