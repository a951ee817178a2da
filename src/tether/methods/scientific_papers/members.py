"""The files inside a folder, a tar or a zip from outside, read in order and in memory, within limits.

Nothing is ever written. Names that point outside, links and devices are named and passed over; an archive that unpacks
to more than it may stops being read.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tether.core.atomic_io import read_bytes, regular
from tether.core.errors import InputError, reason_of
from tether.core.ranges import Count, checked
from tether.data.archives import BROKEN, TarStream
from tether.data.paths import points_outside

ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")
"""Endings of archives."""
_HERE = re.compile(r"^(?:\./+)+")


@checked
@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may hold.

    Attributes:
        members: files and folders.
        member_bytes: size of one file; a larger one is passed over.
        total_bytes: size of all that is unpacked, everything passed over included.
        document_bytes: size of all LaTeX that is read; of XML, which is read faster, four times as much.
    """

    members: Count = 20_000
    member_bytes: Count = 1 << 27
    total_bytes: Count = 1 << 30
    document_bytes: Count = 1 << 21


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        name: with ``/`` between folders, and without the ``./`` that some archives begin all names with.
        refused: why it is not read, or the empty string.
        size: bytes that it says it has.
        read: its bytes, or an InputError that names the archive and the file; to be called before the next member is
            asked for.
    """

    name: str
    refused: str
    size: int
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
    except BROKEN as error:
        raise InputError(f"{path}: cannot be read after {count} files: {reason_of(error)}") from error


def _read(read: Callable[[], bytes], *, where: str) -> bytes:
    try:
        return read()
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{where}: cannot be read: {reason_of(error)}") from error


def _refusal(name: str, size: int, limits: Limits) -> str:
    if points_outside(name):
        return f"{name!r} points outside"
    if size > limits.member_bytes:
        return f"{name!r} has {size} bytes; more than {limits.member_bytes} are refused"
    return ""


def _is_zip(path: Path) -> bool:
    with regular(path).open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _folder(path: Path, limits: Limits) -> Iterator[Member]:
    root, total = path.resolve(), 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            inside = file.relative_to(path).as_posix()
            if not file.resolve().is_relative_to(root) or not file.is_file():
                yield Member(inside, f"{inside!r} is a link that leads outside, or no file", 0, bytes)
                continue
            size = file.stat().st_size
            total += size
            if total > limits.total_bytes:
                raise InputError(f"{path}: more than {limits.total_bytes} bytes")
            yield Member(inside, _refusal(inside, size, limits), size, partial(read_bytes, file, limit=size))


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
            yield Member(info.filename, refused, info.file_size, lambda info=info: _unzipped(archive, info))


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename!r} is not as long as it says")
    return data


def _tar(path: Path, limits: Limits) -> Iterator[Member]:
    with regular(path).open("rb") as file:
        archive = TarStream(file, most=limits.total_bytes)
        try:
            while (info := archive.next()) is not None:
                if info.isdir():
                    continue
                refused = _refusal(info.name, info.size, limits)
                if not info.isfile() or info.issparse():
                    refused = f"{info.name!r} is a link or device and no file"
                yield Member(info.name, refused, info.size, partial(archive.read, info))
        finally:
            archive.close()
