"""What an image file may cost, by its headers: counted before anything is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from tether.core.errors import InputError

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MOST_PARTS = 100_000
"""Segments, chunks or directories of one file; a file of 256 MB in chunks of 8 kB has 33,000."""
_MOST_EXIF = 1 << 16
_MOST_SCANS = 100
_SCAN_PIXELS = 1 << 30
"""Pixels times scans of a JPEG, where it has more scans than usual."""
_SCANS = 20
_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
_START_OF_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_NEXT, _NEXT_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff])"), re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_TIFF = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TEXTS = (1, 2, 6, 7)
_MOST_NUMBERS = 4 << 20
_POINTERS = (34665, 34853, 40965)  # Exif, GPS, Interoperability
_TILE_SIDES = (322, 323)
_MOST_TILE = 1 << 26


def is_dicom(data: bytes) -> bool:
    """Whether a file's bytes are DICOM, by their mark."""
    return data[128:132] == b"DICM"


def check_headers(data: bytes) -> None:
    """Refuse a file whose parts would cost far more than its pixels."""
    if data.startswith(JPEG):
        _check_jpeg(data)
    elif data.startswith(PNG):
        _check_png(data)
    elif data[:4] in _TIFF:
        tiff_pages(data)


def jpeg_frame(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and number of channels of a JPEG from its frame header alone, or None when there is none."""
    for marker, at, length in _segments(data):
        if marker in _START_OF_FRAME and length >= 6 and at + 6 <= len(data):
            return int.from_bytes(data[at + 1 : at + 3]), int.from_bytes(data[at + 3 : at + 5]), data[at + 5]
        if marker == _START_OF_SCAN:
            break
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, place and length of what follows it, found as libjpeg finds them: what lies between is skipped."""
    at, after = 2, _NEXT
    while found := after.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _END:
            return
        if marker in _WITHOUT_LENGTH:
            continue
        length = max(2, int.from_bytes(data[at : at + 2]))
        yield marker, at + 2, length - 2
        at += length
        after = _NEXT_AFTER_SCAN if marker == _START_OF_SCAN else _NEXT


def _check_jpeg(data: bytes) -> None:
    scans = exif = 0
    height, width, _ = jpeg_frame(data) or (0, 0, 0)
    for parts, (marker, at, length) in enumerate(_segments(data)):
        scans += marker == _START_OF_SCAN
        exif += length if marker == _EXIF and data[at : at + 4] == b"Exif" else 0
        if parts > _MOST_PARTS:
            raise InputError(f"more than {_MOST_PARTS:,} segments")
        if scans > _MOST_SCANS or (scans > _SCANS and scans * height * width > _SCAN_PIXELS):
            raise InputError(f"at least {scans} scans over {width} x {height} pixels; refused")
    if exif > _MOST_EXIF:
        raise InputError(f"{exif:,} bytes of EXIF; more than {_MOST_EXIF:,} are refused")


def _check_png(data: bytes) -> None:
    at, parts = len(PNG), 0
    while at + 8 <= len(data):
        at += 12 + int.from_bytes(data[at : at + 4])
        parts += 1
        if parts > _MOST_PARTS:
            raise InputError(f"more than {_MOST_PARTS:,} chunks")


def tiff_pages(data: bytes, *, most: int = _MOST_PARTS) -> int:
    """Number of pages of a TIFF, from its directories."""
    order, big = _TIFF[data[:4]]
    word, head, entry = ("Q", 8, 20) if big else ("L", 2, 12)
    first = struct.unpack_from(f"{order}{word}", data, 8 if big else 4)[0] if len(data) >= 16 else 0
    waiting, seen = [(first, 1)], {0}
    pages = weight = numbers = entries = 0
    while waiting:
        start, is_page = waiting.pop()
        if start in seen:
            continue
        seen.add(start)
        pages += is_page
        sides = {}
        try:
            (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
            for at in range(start + head, start + head + count * entry, entry):
                tag, kind, number = struct.unpack_from(f"{order}HH{word}", data, at)
                size = number * _TYPE_BYTES.get(kind, 1)
                entries, weight = entries + 1, weight + size
                numbers += 0 if kind in _TEXTS else size
                if pages > most or entries > 2 * _MOST_PARTS:
                    raise InputError(f"more than {most:,} pages or {2 * _MOST_PARTS:,} entries")
                if weight > len(data) + 4 * entries or numbers > _MOST_NUMBERS:
                    raise InputError("entries of more bytes than the file has; refused")
                if tag in _POINTERS or tag in _TILE_SIDES:
                    place = at + 4 + struct.calcsize(f"{order}{word}")
                    (sides[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else word}", data, place)
            if is_page:
                waiting.append((struct.unpack_from(f"{order}{word}", data, start + head + count * entry)[0], 1))
        except struct.error:
            pass  # cut off, which Pillow says when it gets there
        if sides.get(322, 1) * sides.get(323, 1) > _MOST_TILE:
            raise InputError(f"tiles of {sides[322]} x {sides[323]} pixels; refused")
        waiting.extend((sides[tag], 0) for tag in _POINTERS if tag in sides)
    return pages


def gif_frames(data: bytes, *, most: int) -> tuple[int, int, int]:
    """Number of frames of a GIF, and the width and height that hold them all."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _palette(flags), 0
    while at < len(data) and data[at : at + 1] in b"!,\0":
        kind = data[at : at + 1]
        if kind == b"," and at + 10 <= len(data):
            x, y, w, h, flags = struct.unpack_from("<HHHHB", data, at + 1)
            width, height, frames = max(width, x + w), max(height, y + h), frames + 1
            at += 11 + _palette(flags)
            if frames > most:
                raise InputError(f"more than {most:,} frames")
        else:
            at += 2 if kind == b"!" else 1
        while kind != b"\0" and at < len(data) and data[at]:
            at += 1 + data[at]
        at += kind != b"\0"
    return frames, width, height


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
