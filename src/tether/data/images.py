"""Images from outside to uint8 tensors: upright, RGB, and resized the way open_clip does, only faster."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError, reason_of
from tether.core.types import ImageLike, ImageSpec
from tether.data.image_file import MAX_PIXELS, check_size, image_bytes, open_image, orientation
from tether.data.image_headers import JPEG, check_headers, is_dicom, jpeg_frame
from tether.data.placement import Placement

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_RGB_MODE = 3  # torchvision.io.ImageReadMode.RGB
_BAND = 1 << 20  # pixels that are converted at once
_WIDEST = 64  # aspect ratio beyond which only the middle of an image is resized


def decode(image: ImageLike, *, name: str = "", max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 h w"]:
    """Decode an image to upright RGB.

    The content decides the format, never the file's name. EXIF rotation is applied, transparency is laid over white,
    16-bit values are scaled to 8 bits, CMYK, palette and grey images become RGB, and of an animation the first
    frame is taken. JPEG goes through torchvision's decoder, DICOM through pydicom with the file's own window (the
    source ``windowed`` shows others), everything else through Pillow.

    Args:
        image: an encoded file's bytes, the path of one, a Pillow image, or uint8 pixels (h, w), (h, w, 1), (h, w, 3) or
            (h, w, 4).
        name: what errors call the image (a row's key); a path names itself.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        (3, h, w) uint8, often laid out with the channels last, which the resize likes.

    Raises:
        InputError: the file is missing, empty, truncated, corrupt, too large or not an image; it says which.
        MissingExtraError: DICOM without pydicom.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name=name)
    if is_pillow(image):
        return _of_pillow(image, name=name, max_pixels=max_pixels)
    if isinstance(image, (str, Path)):
        name, image = name or str(image), image_bytes(image, name=name)
    if not isinstance(image, (bytes, bytearray, memoryview)):
        expected = "bytes, a path, a Pillow image or uint8 pixels"
        raise InputError(f"{_named(name)}: expected {expected}, got {type(image).__name__}")
    data = bytes(image)
    if not data:
        raise InputError(f"{_named(name)}: the image is empty (0 bytes)")
    if is_dicom(data):
        return _by_pydicom(data, name=_named(name), max_pixels=max_pixels)
    frame = jpeg_frame(data) if data.startswith(JPEG) else None
    if frame is None or frame[2] not in (1, 3):
        return _by_pillow(data, name=_named(name), max_pixels=max_pixels)
    try:
        check_headers(data)
        check_size(frame[1], frame[0], max_pixels=max_pixels)
        return _jpeg_decoder()(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB_MODE, True)
    except InputError as error:
        raise InputError(f"{_named(name)}: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{_named(name)}: broken JPEG of {len(data)} bytes: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """What torchvision says, without the place in its sources that it puts before."""
    return re.sub(r"^\w+, \S+:\d+, ", "", reason_of(error))


def resize_and_crop(pixels: UInt8[Tensor, "3 h w"], spec: ImageSpec, *, exact: bool = False) -> UInt8[Tensor, "3 H W"]:
    """Resize and crop an image to the size a model wants, staying in uint8.

    Equal to open_clip's evaluation transform (Pillow resize, centre crop) within one or two grey levels of a few pixels
    in a thousand, or exactly: the long side is cut down to a whole number, and half a pixel of margin goes to the even
    side (``round`` to even).
    An image more than 64 times as long as wide is first cut to its middle, so that it cannot fill the memory.

    Args:
        pixels: (3, h, w) uint8.
        spec: target size, resize rule, interpolation and fill.
        exact: resize by Pillow itself, for numbers that shall be those of open_clip to the last image.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise InputError(f"expected uint8 pixels (3, h, w), got {pixels.dtype} {tuple(pixels.shape)}")
    height, width = spec.size
    if spec.patches is not None:
        return resize(pixels, *_whole_patches(pixels, *spec.patches), spec.interpolation)
    if spec.resized is None and pixels.shape[1:] == (height, width):
        return pixels
    if spec.resize == "shortest":
        top, bottom, left, right = _middle(pixels.shape[1], pixels.shape[2], height, width)
        pixels = pixels[:, top:bottom, left:right]
    rows, columns = _resized(pixels.shape[1], pixels.shape[2], spec)
    pixels = (_resize_by_pillow if exact else resize)(pixels, rows, columns, spec.interpolation)
    return _centre(pixels, height, width, fill=spec.fill, floor=spec.resized is not None)


def load(image: ImageLike, spec: ImageSpec, *, name: str = "", exact: bool = False) -> UInt8[Tensor, "3 H W"]:
    """Decode, resize and crop in one call."""
    return resize_and_crop(decode(image, name=name), spec, exact=exact)


def fitted(height: int, width: int, spec: ImageSpec) -> Placement:
    """The part of an image that ``resize_and_crop`` shows.

    Args:
        height: of the image in pixels.
        width: likewise.
        spec: as for ``resize_and_crop``.
    """
    to = spec.size
    if spec.patches is not None or (spec.resized is None and (height, width) == to):
        return Placement()
    top, bottom, left, right = 0, height, 0, width
    if spec.resize == "shortest":
        top, bottom, left, right = _middle(height, width, *to)
    rows, columns = _resized(bottom - top, right - left, spec)
    y, x = (_start(side, want, floor=spec.resized is not None) for side, want in zip((rows, columns), to, strict=True))
    down, across = (bottom - top) / rows, (right - left) / columns  # pixels of the image in one of the view
    y0, x0 = top + y * down, left + x * across
    return Placement((x0 / width, y0 / height, (x0 + to[1] * across) / width, (y0 + to[0] * down) / height))


def _resized(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Size after the resize and before the crop; the two roundings are open_clip's (square and other targets)."""
    to = spec.resized or spec.size
    if spec.resize == "squash":
        return to
    if spec.resize == "shortest" and to[0] == to[1]:
        short = to[0]
        return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    ratios = height / to[0], width / to[1]
    ratio = min(ratios) if spec.resize == "shortest" else max(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _whole_patches(pixels: Tensor, side: int, most: int) -> tuple[int, int]:
    """The largest size of whole patches of about the same aspect: SigLIP 2's search (arXiv 2502.14786, NaFlex)."""

    def scaled(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(length * scale / side)) for length in pixels.shape[1:])
        return rows, columns

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        low, high = (scale, high) if math.prod(scaled(scale)) <= most else (low, scale)
    rows, columns = scaled(low)
    return rows * side, columns * side


def _middle(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is resized: all but the ends of very long images."""
    most_columns = max(_WIDEST, round(_WIDEST * rows * width / height))
    most_rows = max(_WIDEST, round(_WIDEST * columns * height / width))
    if columns > most_columns:
        start = (columns - most_columns) // 2
        return 0, rows, start, start + most_columns
    if rows > most_rows:
        start = (rows - most_rows) // 2
        return start, start + most_rows, 0, columns
    return 0, rows, 0, columns


def resize(pixels: Tensor, height: int, width: int, mode: Literal["bicubic", "bilinear", "nearest"]) -> Tensor:
    """(3, height, width) uint8, antialiased unless ``nearest``."""
    if pixels.shape[1:] == (height, width):
        return pixels
    if mode == "nearest":
        return F.interpolate(pixels[None], (height, width), mode=mode)[0]
    if _native_bytes():
        return F.interpolate(pixels[None], (height, width), mode=mode, antialias=True)[0]
    resized = F.interpolate(pixels[None].float(), (height, width), mode=mode, antialias=True)[0]
    return resized.clamp_(0, 255).round_().to(torch.uint8)


def _resize_by_pillow(
    pixels: Tensor, height: int, width: int, mode: Literal["bicubic", "bilinear", "nearest"]
) -> Tensor:
    from PIL import Image

    if pixels.shape[1:] == (height, width):
        return pixels
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    resized = image.resize((width, height), Image.Resampling[mode.upper()])
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@cache
def _native_bytes() -> bool:
    """Whether torch resizes bytes directly; without AVX its byte path is neither fast nor Pillow's."""
    return "AVX" in torch.backends.cpu.get_cpu_capability()


def _centre(pixels: Tensor, height: int, width: int, *, fill: int, floor: bool) -> Tensor:
    missing = max(0, height - pixels.shape[1]), max(0, width - pixels.shape[2])
    if any(missing):
        top, left = missing[0] // 2, missing[1] // 2
        pixels = F.pad(pixels, (left, missing[1] - left, top, missing[0] - top), value=fill)
    top, left = (_start(pixels.shape[axis], want, floor=floor) for axis, want in ((1, height), (2, width)))
    return pixels[:, top : top + height, left : left + width]


def _start(side: int, want: int, *, floor: bool) -> int:
    """Where the target begins in a resized side; before it where that is padded."""
    if side < want:
        return -((want - side) // 2)
    return (side - want) // 2 if floor else round((side - want) / 2)


@cache
def _jpeg_decoder():
    """The decoder out of torchvision's image library, without importing the package (3 ms instead of 2 s)."""
    spec = importlib.util.find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for library in sorted(folder.glob("image*.so")) + sorted(folder.glob("image*.pyd")):
        torch.ops.load_library(str(library))
        return torch.ops.image.decode_jpeg
    importlib.import_module("torchvision.io")  # registers the operator
    return torch.ops.image.decode_jpeg


def _from_array(pixels: np.ndarray, *, name: str) -> Tensor:
    shape = pixels.shape
    channels = shape[2] if len(shape) == 3 else 1
    if pixels.dtype != np.uint8 or len(shape) not in (2, 3) or 0 in shape or channels not in (1, 3, 4):
        raise InputError(f"{_named(name)}: expected uint8 pixels (h, w, 3), got {pixels.dtype} {shape}")
    if channels == 1:
        pixels = np.broadcast_to(pixels.reshape(shape[0], shape[1], 1), (shape[0], shape[1], 3))
    elif channels == 4:
        pixels = _over_white(pixels)
    if not pixels.flags.writeable:
        pixels = pixels.copy()  # torch shares the memory and would let the owner's pixels be written
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _over_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = pixels[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _by_pydicom(data: bytes, *, name: str, max_pixels: int) -> Tensor:
    from tether.data.dicom import read_dicom

    found = read_dicom(data, name=name)
    try:
        check_size(found.values.shape[2], found.values.shape[1], max_pixels=max_pixels)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return _from_array(found.grey()[0] if found.colour is None else found.colour[0], name=name)


def _by_pillow(data: bytes, *, name: str, max_pixels: int) -> Tensor:
    with open_image(data, name=name, max_pixels=max_pixels) as opened:
        return _loaded(opened)


def is_pillow(image: object) -> TypeGuard[PillowImage.Image]:
    """Whether it is a Pillow image, without importing Pillow for the question."""
    return hasattr(image, "convert") and hasattr(image, "mode")


def _of_pillow(image: PillowImage.Image, *, name: str, max_pixels: int) -> Tensor:
    try:
        check_size(image.width, image.height, max_pixels=max_pixels)
        return _loaded(image)
    except (OSError, SyntaxError, ValueError) as error:  # an InputError is a ValueError
        raise InputError(f"{_named(name)}: {error}") from error


def _loaded(opened: PillowImage.Image) -> Tensor:
    opened.load()
    lies = orientation(opened)
    pixels = np.empty((opened.height, opened.width, 3), np.uint8)
    for rows, band in bands(opened):
        pixels[rows] = _rgb(band)
    return _upright(torch.from_numpy(pixels).permute(2, 0, 1), lies)


def bands(image: PillowImage.Image) -> Iterator[tuple[slice, PillowImage.Image]]:
    """A loaded image in stretches of rows, so that no copy of the whole is made while it is converted."""
    step = max(1, _BAND // image.width)
    if step >= image.height:
        yield slice(None), image
        return
    for top in range(0, image.height, step):
        rows = slice(top, min(top + step, image.height))
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def _upright(pixels: Tensor, lies: int) -> Tensor:
    """Turned as the EXIF value 1 to 8 says."""
    if lies >= 5:
        pixels = pixels.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(lies)
    return pixels if flips is None else pixels.flip(flips)


def _rgb(image: PillowImage.Image) -> np.ndarray:
    """(h, w, 3) or (h, w, 1) uint8 of a loaded Pillow image."""
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(np.asarray(image))[:, :, None]
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _over_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits to uint8: integers are on the scale 0 to 65,535, floats on 0 to 1."""
    top = 1 if values.dtype.kind == "f" else 65535
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also refuses NaN
        raise InputError(f"grey values from {low} to {high}; expected 0 to {top}")
    return np.round(values * (255 / top)).astype(np.uint8)


def _named(name: str) -> str:
    return name or "image"
