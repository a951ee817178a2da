"""Frames of a clip as files of a folder."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.atomic_io import atomic_folder, local
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data.images import load
from tether.data.paths import is_image_file

MOST = 1_000
"""Frames that are read of a folder at most."""


def read_frames(folder: Path | str, *, size: tuple[int, int]) -> Float[Tensor, "f 3 h w"]:
    """The images of a folder in the order of the numbers in their names, resized and cut to a size, in -1 to 1.

    Args:
        folder: of image files, ``frame2.png`` before ``frame10.png``.
        size: height and width in pixels, such as ``diffusion.size``.

    Raises:
        InputError: no such folder, no image in it, too many, or one that cannot be read; it is named.

    Example:
        >>> import tempfile, torch
        >>> from tether.generation.edit.frames import read_frames, write_frames
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = write_frames(torch.zeros(2, 3, 8, 8), place + "/clip")
        ...     read_frames(folder, size=(8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    place = local(folder)
    if not place.is_dir():
        raise InputError(
            f"{place}: expected a folder of frames, got {'a file' if place.exists() else 'no such folder'}"
        )
    names = sorted((one.name for one in place.iterdir() if is_image_file(one.name)), key=_in_order)
    if not 0 < len(names) <= MOST:
        raise InputError(f"{place}: expected 1 to {MOST} image files, got {len(names)}")
    spec = ImageSpec(size)
    frames = torch.stack([load(place / name, spec, name=str(place / name)) for name in names])
    return frames.float() / 127.5 - 1


def write_frames(frames: Float[Tensor, "f 3 h w"], folder: Path | str) -> Path:
    """Frames in -1 to 1 as ``0000.png`` and so on in a new folder, or an empty one; all of them or none.

    Raises:
        InputError: no frames, or a folder that holds something.
        WriteError: as on a full disk.
    """
    place = local(folder)
    if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise InputError(f"frames: expected (f, 3, h, w), got {tuple(frames.shape)}")
    pixels = ((frames.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    with atomic_folder(place) as new:
        for number, image in enumerate(pixels):
            (new / f"{number:04d}.png").write_bytes(png_bytes(image))
    return place


def png_bytes(image: UInt8[Tensor, "3 h w"]) -> bytes:
    """An image as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _in_order(name: str) -> list[tuple[int, str]]:
    """Numbers by their size, all else by its letters."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
