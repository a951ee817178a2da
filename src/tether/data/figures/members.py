"""The files inside a folder, a tar or a zip from outside, read in order and in memory, within limits.

Nothing is ever written. Names that point outside, links and devices are named and passed over; an archive that unpacks
to more than it may stops being read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from tether.core.errors import InputError
from tether.data.paths import points_outside

ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")
"""Endings of archives."""
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError),
    *(ValueError, RecursionError),  # of names that are not UTF-8, of numbers that are none, of headers without end
)
_HERE = re.compile(r"^(?:\./+)+")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may hold.

    Attributes:
        members: files and folders.
        member_bytes: size of one file; a larger one is passed over.
        total_bytes: size of all that is unpacked, everything passed over included.
    """

    members: int = 20_000
    member_bytes: int = 1 << 27
    total_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        """Refuse limits below one."""
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise InputError(f"limits: {name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        name: with ``/`` between folders, and without the ``./`` that some archives begin all names with.
        refused: why it is not read, or the empty string.
        read: its bytes, or an InputError that names the archive and the file; to be called before the next member is
            asked for.
    """

    name: str
    refused: str
    read: Callable[[], bytes]


def members(path: Path, *, limits: Limits) -> Iterator[Member]:
    """The files in order: a folder's by name, an archive's as it holds them.

    Raises:
        InputError: no such file, no archive, broken after the members given so far, or beyond the limits.
    """
    reader = _folder if path.is_dir() else _zip if _is_zip(path) else _tar
    count = 0
    try:
        for member in reader(path, limits):
            count += 1
            if count > limits.members:
                raise InputError(f"{path}: more than {limits.members} files")
            name = _HERE.sub("", member.name)
            yield replace(member, name=name, read=partial(_read, member.read, where=f"{path}: {name}"))
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be read after {count} files: {_reason(error)}") from error


def _read(read: Callable[[], bytes], *, where: str) -> bytes:
    try:
        return read()
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{where}: cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _refusal(name: str, size: int, limits: Limits) -> str:
    if points_outside(name):
        return f"{name!r} points outside"
    if size > limits.member_bytes:
        return f"{name!r} has {size} bytes; more than {limits.member_bytes} are refused"
    return ""


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _folder(path: Path, limits: Limits) -> Iterator[Member]:
    root, total = path.resolve(), 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            inside = file.relative_to(path).as_posix()
            if not file.resolve().is_relative_to(root) or not file.is_file():
                yield Member(inside, f"{inside!r} is a link that leads outside, or no file", bytes)
                continue
            size = file.stat().st_size
            total += size
            if total > limits.total_bytes:
                raise InputError(f"{path}: more than {limits.total_bytes} bytes")
            yield Member(inside, _refusal(inside, size, limits), file.read_bytes)


def _zip(path: Path, limits: Limits) -> Iterator[Member]:
    left = limits.total_bytes
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            refused = _refusal(info.filename, info.file_size, limits)
            if info.flag_bits & 1:
                refused = f"{info.filename!r} is encrypted"
            elif stat.S_ISLNK(info.external_attr >> 16):
                refused = f"{info.filename!r} is a link"
            if not refused:
                left -= info.file_size
                if left < 0:
                    raise InputError(f"{path}: unpacks to more than {limits.total_bytes} bytes")
            yield Member(info.filename, refused, lambda info=info: _unzipped(archive, info))


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename!r} is not as long as it says")
    return data


def _tar(path: Path, limits: Limits) -> Iterator[Member]:
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        unpack = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
        stream = _Counted(unpack(file, "rb") if unpack else file, path=path, most=limits.total_bytes)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # pyrefly: ignore[missing-attribute] - else every header is kept
                if info.isdir():
                    continue
                refused = _refusal(info.name, info.size, limits)
                if not info.isfile() or info.issparse():
                    refused = f"{info.name!r} is a link or device and no file"
                yield Member(info.name, refused, lambda info=info: _untarred(archive, info))


def _untarred(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    reader = archive.extractfile(info)
    data = reader.read() if reader is not None else b""
    if len(data) != info.size:
        raise tarfile.ReadError(f"{info.name!r} ends after {len(data)} of {info.size} bytes")
    return data


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Counted(io.RawIOBase):
    """A stream that ends in an error after so many bytes, so that a small file cannot unpack without end."""

    def __init__(self, stream: _Readable, *, path: Path, most: int) -> None:
        super().__init__()
        self._stream, self._path, self._most, self._left = stream, path, most, most

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._path}: unpacks to more than {self._most} bytes")
        return data
