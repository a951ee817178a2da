"""Tars from outside, read as a stream: nothing is written, and what a small file may unpack to is limited."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any, Self
from weakref import WeakKeyDictionary

HEADER_BYTES = 1 << 20
"""Bytes of headers between two members, at most: tarfile reads long names and extended headers whole."""
FREE_BYTES = 1 << 26
"""Bytes that any compressed file may unpack to, or the rows of any Parquet file."""
MOST_TIMES = 100
"""How many times its size a compressed file may unpack to, beyond that."""

BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(NotImplementedError, ValueError, OverflowError, IndexError),  # of names that are not UTF-8, of numbers
    RecursionError,  # of headers that follow each other without a member
)
"""What reading a damaged archive may raise."""

_XZ_MEMORY = 1 << 28


class TarStream:
    """A tar, compressed or not, member by member."""

    def __init__(self, file: IO[bytes], *, most: int | None = None) -> None:
        """Read the first header.

        Args:
            file: the archive's bytes; read from where it stands, never backwards.
            most: bytes that all of it may unpack to; None sets a limit for compressed archives alone.

        Raises:
            tarfile.ReadError: it unpacks to too much; ``BROKEN`` names what else a damaged archive may raise.
        """
        self._stream = _Unpacked(file, most=most)
        self._archive = tarfile.open(fileobj=self._stream, mode="r|", tarinfo=_EndTold)  # noqa: SIM115 - see close

    def next(self) -> tarfile.TarInfo | None:
        """The next member, or None at the end; the one before is passed over as far as it was not read.

        Raises:
            tarfile.ReadError: it unpacks to too much; ``BROKEN`` names what else a damaged archive may raise.
        """
        self._stream.until = self._archive.offset + HEADER_BYTES
        member = self._archive.next()
        self._archive.members.clear()  # pyrefly: ignore[missing-attribute] - else every header is kept
        if member is not None:
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} has a size below 0")
            self._stream.until = self._archive.offset + HEADER_BYTES
        return member

    def read(self, member: tarfile.TarInfo) -> bytes:
        """The bytes of the member that ``next`` gave last."""
        reader = self._archive.extractfile(member)
        data = reader.read() if reader is not None else b""
        if len(data) != member.size:
            raise tarfile.ReadError(f"{member.name!r} ends after {len(data)} of {member.size} bytes")
        return data

    def check_end(self) -> None:
        """Raise ``tarfile.ReadError`` unless the archive ended with the mark that it must end with."""
        ended = _ENDED.get(self._archive)
        if type(ended).__name__ != "EOFHeaderError":  # tarfile does not publish the kinds of header error
            raise tarfile.ReadError(str(ended) if ended and str(ended) else "the end mark is missing")

    def close(self) -> None:
        """Let go of the archive; the file stays open."""
        self._archive.close()


class _EndTold(tarfile.TarInfo):
    """Remembers why the headers ended, which tarfile keeps to itself: a broken header looks like the end to it."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            _ENDED[tarfile] = error
            raise


_HeaderError: type[Exception] = tarfile.HeaderError
_ENDED: WeakKeyDictionary[tarfile.TarFile, Exception] = WeakKeyDictionary()


class _Unpacked(io.RawIOBase):
    """A file's bytes, unpacked where they are compressed; beyond its limits it ends in an error."""

    def __init__(self, file: IO[bytes], *, most: int | None) -> None:
        super().__init__()
        self.until = HEADER_BYTES  # how far it may be read now
        self._most, self._read = most, 0
        self._raw = _Raw(file)
        start = self._raw.peek(6)
        unpack = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        self._compressed = unpack is not None
        self._stream: Any = unpack(self._raw) if unpack else self._raw

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._read += len(data)
        if self._read > self.until + tarfile.RECORDSIZE:
            raise tarfile.ReadError(f"a header of more than {HEADER_BYTES} bytes")
        if self._most is not None and self._read > self._most:
            raise tarfile.ReadError(f"unpacks to more than {self._most} bytes")
        if self._compressed and self._read > max(FREE_BYTES, MOST_TIMES * self._raw.given):
            raise tarfile.ReadError(f"unpacks to more than {MOST_TIMES} times its size")
        return data


class _Raw(io.RawIOBase):
    """A file that is read once, from its beginning; it counts what it gave."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self._ahead, self.given = file, b"", 0

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        self._ahead = self._file.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        data, self._ahead = self._ahead[:size] if size >= 0 else self._ahead, self._ahead[max(size, 0) :]
        data = data or self._file.read(size)
        self.given += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Xz:
    """Unpacks xz with a limit on the memory of its dictionary, which Python's own reader does not have."""

    def __init__(self, file: _Raw) -> None:
        self._file, self._unpack = file, self._new()

    def read(self, size: int) -> bytes:
        data = b""
        while not data:
            more = b""
            if self._unpack.eof:  # another stream may follow
                more = self._unpack.unused_data.lstrip(b"\0") or self._file.read(1 << 16).lstrip(b"\0")
                if not more:
                    return b""
                self._unpack = self._new()
            elif self._unpack.needs_input and not (more := self._file.read(1 << 16)):
                raise EOFError("the compressed data end too early")
            data = self._unpack.decompress(more, size)
        return data

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


_OPENERS: dict[bytes, Callable[[_Raw], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": lambda file: bz2.BZ2File(file, "rb"),
    b"\xfd7zXZ\x00": _Xz,
}
