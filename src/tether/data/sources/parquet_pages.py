"""What the pages of a Parquet column unpack to, read from their own headers: a footer may say anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from tether.core.errors import InputError

_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8  # fields of a page's header that hold the headers of their kind
_SHARED = 7  # DELTA_BYTE_ARRAY
_SMALL, _BIG = 1 << 10, 1 << 26
"""Bytes of a dictionary that is not looked into: at most, and at least unless the file is about as large."""
_INT32, _BINARY, _LIST, _SET, _MAP, _STRUCT = 5, 8, 9, 10, 11, 12
_NEAR, _FAR = 1 << 12, 1 << 20
"""Bytes of a page's header: read at first, and at most."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one column of one row group.

    Attributes:
        largest: bytes of the page that unpacks to most.
        repeated: bytes that any value may have beside those that stand in its own page: of the largest value of the
            dictionary, or of a page whose values share their beginnings.
        data: of each page of values, how many values it holds, nulls included, and bytes it unpacks to.
    """

    largest: int
    repeated: int
    data: tuple[tuple[int, int], ...]

    @property
    def values(self) -> int:
        """How many values there are, nulls included."""
        return sum(count for count, _ in self.data)

    def most_bytes(self, values: int, *, width: int = 0) -> int:
        """Bytes that so many neighbouring values may have, at most; each has ``width`` at least."""
        first = held = size = most = 0
        for last, (count, unpacked) in enumerate(self.data):
            held, size = held + count, size + unpacked
            while first < last and held - self.data[first][0] - count > values - 2:  # no room between the two
                held, size = held - self.data[first][0], size - self.data[first][1]
                first += 1
            most = max(most, size)
        return values * max(width, self.repeated) + most


def pages_of(file: IO[bytes], *, start: int, size: int, codec: str) -> Pages:
    """Go from header to header.

    Args:
        file: the Parquet file, to be sought in.
        start: where the column's first page begins.
        size: bytes of all its pages.
        codec: how they are compressed.
    """
    largest = repeated = 0
    data: list[tuple[int, int]] = []
    at, end = start, start + size
    while at < end:
        header, length = _header(file, at)
        packed, unpacked = header.get(3), header.get(2)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0 or unpacked < 0:
            raise InputError(f"damaged header of a page at byte {at}")
        largest = max(largest, unpacked)
        if isinstance(header.get(_DICTIONARY), dict):
            file.seek(at + length)
            repeated = max(repeated, _largest_value(file, packed=packed, unpacked=unpacked, codec=codec))
        for field, encoding in ((_DATA, 2), (_DATA_V2, 4)):
            if isinstance(kind := header.get(field), dict):
                data.append((max(0, kind.get(1, 0)), unpacked))
                repeated = max(repeated, unpacked) if kind.get(encoding) == _SHARED else repeated
        at += length + packed
    return Pages(largest, repeated, tuple(data))


def _largest_value(file: IO[bytes], *, packed: int, unpacked: int, codec: str) -> int:
    """Bytes of the largest value of a dictionary of texts, or of all of it where that does not show."""
    if unpacked <= _SMALL or unpacked > max(_BIG, 4 * packed):
        return unpacked
    try:
        data = memoryview(file.read(packed))
        if codec != "UNCOMPRESSED":
            data = memoryview(pa.Codec(codec.lower()).decompress(data, unpacked))
    except (pa.ArrowException, OSError, ValueError):
        return unpacked
    at = most = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        most = max(most, length)
        at += 4 + length
    return most if at == len(data) == unpacked else unpacked


def _header(file: IO[bytes], at: int) -> tuple[dict[int, Any], int]:
    """The fields of a page's header by number, and its length."""
    for most in (_NEAR, _FAR):
        file.seek(at)
        data = file.read(most)
        reader = _Compact(data)
        try:
            return reader.struct(), reader.at
        except IndexError:  # it goes on
            continue
        except ValueError:
            break
    raise InputError(f"damaged header of a page at byte {at}")


class _Compact:
    """Thrift's compact protocol, as far as a page's header needs it: whole numbers and structures, the rest skipped."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > 8:
            raise ValueError("nested too deeply")
        found: dict[int, Any] = {}
        field = 0
        while (head := self.byte()) != 0:
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self.number()
            value = self.value(kind, depth)
            if kind in (_INT32, _STRUCT):
                found[field] = value
        return found

    def value(self, kind: int, depth: int, *, inside: bool = False) -> Any:
        if kind in (1, 2):  # a truth value, which is its own kind unless it stands in a list
            return self.byte() if inside else None
        if kind == 3:
            return self.byte()
        if kind in (4, _INT32, 6):
            return self.number()
        if kind == 7:
            self.at += 8
        elif kind == _BINARY:
            length = self.unsigned()  # which itself moves on
            self.at += length
        elif kind in (_LIST, _SET):
            head = self.byte()
            count = self.unsigned() if head >> 4 == 15 else head >> 4
            self.items((head & 15,), count, depth)
        elif kind == _MAP:
            count = self.unsigned()
            if count:
                head = self.byte()
                self.items((head >> 4, head & 15), count, depth)
        elif kind == _STRUCT:
            return self.struct(depth + 1)
        else:
            raise ValueError(f"unknown kind {kind}")
        if self.at > len(self.data):
            raise IndexError
        return None

    def items(self, kinds: tuple[int, ...], count: int, depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                self.value(kind, depth + 1, inside=True)

    def number(self) -> int:
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number without end")

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]
