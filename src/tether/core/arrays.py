"""NumPy archives from outside: nothing is unpickled, and no small file becomes a large one."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from tether.core.errors import InputError

RATIO, LEAST = 32, 64 * 2**20
"""An archive may unpack to so many times its size, or to so many bytes where that is more."""


def read_arrays(path: Path | str, *, what: str) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file.

    Args:
        path: of the file.
        what: it should be, for the error.

    Raises:
        InputError: no such file, damaged, objects that need unpickling, or far larger unpacked.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            size, packed = sum(one.file_size for one in archive.infolist()), Path(path).stat().st_size
            for one in archive.infolist():
                with archive.open(one) as member:
                    if _claimed(member) > one.file_size:
                        raise InputError(f"{path}: {one.filename}: shorter than its header says; that is no {what}")
        if size > max(LEAST, RATIO * packed):
            raise InputError(f"{path}: {packed:,} bytes that unpack to {size:,}; that is no {what}")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except InputError:
        raise
    except Exception as error:  # zip, zlib and the header of an array each fail in ways of their own
        raise InputError(f"{path}: not a {what}: {error or type(error).__name__}") from None


def read_array(data: bytes, *, what: str) -> np.ndarray:
    """The array in the bytes of an ``.npy`` file.

    Args:
        data: the whole file.
        what: it is called, for the error.

    Raises:
        InputError: damaged, objects that need unpickling, or shorter than its header says.
    """
    try:
        if _claimed(io.BytesIO(data)) > len(data):
            raise InputError(f"{what} is shorter than its header says")
        return np.load(io.BytesIO(data), allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # the header is read as Python, which fails in ways of its own
        raise InputError(f"{what} cannot be read: {str(error)[:200] or type(error).__name__}") from None


def _claimed(member: IO[bytes]) -> int:
    """Bytes that the header of an array says follow it."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(member)
    return math.prod(shape) * kind.itemsize
