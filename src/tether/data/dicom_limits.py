"""What a DICOM file may cost: deflated bytes, elements and encoded frames are counted before they are read."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING

from tether.core.errors import InputError
from tether.data.image_file import MAX_FRAMES
from tether.data.image_headers import check_headers, jpeg_frame

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_INFLATED = 192 * 2**20
_MOST_READS = 300_000
_MOST_RUNS = 8_000_000
_MOST_CODESTREAM_PIXELS = 1 << 25  # JPEG 2000 is decoded in 32 bits, several times over
_PREAMBLE = 132
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"
_RLE = "1.2.840.10008.1.2.5"
_CODESTREAM = b"\xff\x4f\xff\x51"


class Counted(BytesIO):
    """A file in memory that refuses to be read in very many pieces: each element of a header is one or two."""

    def __init__(self, data: bytes) -> None:
        """Take the file's bytes."""
        super().__init__(data)
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As usual, and counted."""
        self._reads += 1
        if self._reads > _MOST_READS:
            raise InputError(f"more than {_MOST_READS // 2:,} elements")
        return super().read(size)


def inflated(data: bytes) -> bytes:
    """The same file with its deflated part inflated; most files have none."""
    from pydicom.filereader import read_dataset

    file = Counted(data)
    file.seek(_PREAMBLE)
    read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    head = data[: file.tell()]
    if _DEFLATED not in head:
        return data
    stream, body = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    try:
        body += stream.decompress(data[len(head) :], MAX_INFLATED + 1)
    except zlib.error as error:
        raise InputError(f"broken DICOM file: {error}") from None
    if len(body) > MAX_INFLATED:
        raise InputError(f"more than {MAX_INFLATED:,} bytes when inflated")
    return head.replace(_DEFLATED, _EXPLICIT.ljust(len(_DEFLATED), b"\0")) + body


def check_frames(header: Dataset, *, frames: int, rows: int, columns: int) -> None:
    """Refuse encoded frames that hold more than the header says."""
    from pydicom.encaps import generate_frames
    from pydicom.uid import UID

    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    if frames > MAX_FRAMES:
        raise InputError(f"{frames:,} frames; at most {MAX_FRAMES:,}")
    if "PixelData" not in header or not syntax.is_transfer_syntax or not syntax.is_compressed or syntax.is_deflated:
        return
    offsets = None
    if "ExtendedOffsetTable" in header:
        offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    size = runs = 0
    for frame in generate_frames(header.PixelData, number_of_frames=frames, extended_offsets=offsets):
        size += len(frame)
        if size > len(header.PixelData):
            raise InputError("frames of more bytes than the file has")
        if syntax == _RLE:
            runs += _rle_runs(frame, pixels=rows * columns, most=_MOST_RUNS - runs)
            continue
        check_headers(frame)
        found = jpeg_frame(frame)
        if frame.startswith(_CODESTREAM) and len(frame) >= 24:
            right, bottom, left, top = struct.unpack_from(">4L", frame, 8)
            found = bottom - top, right - left, 0
            if rows * columns > _MOST_CODESTREAM_PIXELS:
                raise InputError(f"{columns} x {rows} pixels of JPEG 2000; refused")
        if found is None or found[:2] != (rows, columns):
            raise InputError(f"a frame that is not {columns} x {rows} pixels")


def _rle_runs(frame: bytes, *, pixels: int, most: int) -> int:
    """How many runs a frame is made of; each segment must hold a byte for each pixel, and hardly more."""
    offsets = struct.unpack_from("<16L", frame.ljust(64, b"\0"))
    runs = 0
    for start, end in pairwise((*offsets[1 : 1 + min(offsets[0], 15)], len(frame))):
        at = made = 0
        segment = frame[start:end]
        while at < len(segment):
            code = segment[at]
            made += 257 - code if code > 128 else code + 1 if code < 128 else 0
            at += 2 if code > 128 else code + 2 if code < 128 else 1
            runs += 1
            if made > pixels + 256 or runs > most:
                raise InputError("runs of more bytes than the frame has pixels" if runs <= most else "too many runs")
    return runs
