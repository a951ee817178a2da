"""Files here or elsewhere: local paths directly, URLs through fsspec."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Literal, cast

from tether.core.atomic_io import decode_text, local
from tether.core.errors import InputError, reason_of, refusing
from tether.core.printable import encodable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm", ".dcm")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_DIGITS = 12
MOST_SHARDS = 100_000
"""Files that ``{0000..9999}`` may stand for."""


def is_url(path: str) -> bool:
    """Whether a path names a protocol that fsspec must open (``s3://``, ``https://``, ``memory://``)."""
    return "://" in path


def here(place: str) -> str:
    """A ``file://`` URL as the path that it is; anything else as it stands."""
    return filesystem(place)[1] if place.startswith("file://") else place


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path inside it."""
    import fsspec

    with refusing(f"{url:.200}: cannot reach it"):
        return fsspec.url_to_fs(url)


def files(pattern: str | Path, *, ending: tuple[str, ...] = ()) -> list[str]:
    """The files that a path, a pattern or a URL names, sorted.

    Args:
        pattern: one file, a folder (then its files with one of the endings, at any depth), a pattern with ``*``, or
            numbered shards as ``{0000..0012}``.
        ending: which files of a folder count, in lower case.
    """
    pattern = str(pattern)
    braces = _BRACES.search(pattern)
    if braces:
        first, last = braces.groups()
        if max(len(first), len(last)) > _DIGITS:
            raise InputError(f"{pattern:.200}: expected a range of at most {_DIGITS} digits, got {braces.group():.100}")
        numbers = range(int(first), int(last) + 1)
        if len(numbers) > MOST_SHARDS:
            raise InputError(f"{pattern}: {len(numbers):,} files; at most {MOST_SHARDS:,} are named by a range")
        names = [pattern[: braces.start()] + str(n).zfill(len(first)) + pattern[braces.end() :] for n in numbers]
        if not names:
            raise InputError(f"{pattern}: the range {braces.group()} is empty")
        return [found for name in names for found in files(name, ending=ending)]
    found = _remote(pattern, ending) if is_url(pattern) else _local(pattern, ending)
    if not found:
        kinds = " or ".join(filter(None, ending))
        raise InputError(f"{pattern}: no {kinds} files there" if kinds else f"{pattern}: empty, no files there")
    return sorted(found)


def _local(pattern: str, ending: tuple[str, ...]) -> list[str]:
    path = local(pattern)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        named = (f"{top}/{name}" for top, _, names in os.walk(path) for name in names if name.lower().endswith(ending))
        return [each for each in named if _may_be_file(each)]
    if not has_magic(pattern):
        raise InputError(f"{pattern}: no such file or folder")
    anchor = Path(path.anchor)
    return [str(each) for each in anchor.glob(str(path.relative_to(anchor))) if each.is_file()]


def _may_be_file(path: str) -> bool:
    """Whether a regular file stands there, or something that only reading it can tell, such as too long a path."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except FileNotFoundError:  # a link to nothing, or removed since it was listed
        return False
    except OSError:
        return True


def _remote(url: str, ending: tuple[str, ...]) -> list[str]:
    system, path = filesystem(url)
    with refusing(f"{url:.200}: cannot list it"):
        if has_magic(path):
            return [system.unstrip_protocol(str(each)) for each in system.glob(path)]
        if system.isdir(path):
            names = [str(each) for each in system.find(path)]
            return [system.unstrip_protocol(name) for name in names if name.lower().endswith(ending)]
    return [url]


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a local file or a URL for reading bytes."""
    path = str(path)
    try:
        if is_url(path):
            system, inner = filesystem(path)
            with refusing(f"{path:.200}: cannot open it"):
                return cast("IO[bytes]", system.open(inner, "rb"))
        return local(path).open("rb")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot open it: {reason_of(error)}") from error


def read_text(path: str | Path, *, limit: int) -> str:
    """A whole UTF-8 file, without a byte-order mark."""
    with open_binary(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: more than {limit:,} bytes")
    return decode_text(data, where=str(path))


def labels(paths: list[str], *, folder: str | None = None) -> list[str]:
    """Short distinct names of files: what follows ``folder``, or else the deepest folder that they share.

    They are valid text: of a name that is not UTF-8 the odd bytes are escaped.
    """
    if folder is not None:
        return [encodable(path.removeprefix(folder.rstrip("/") + "/")) for path in paths]
    parts = [path.split("/") for path in paths]
    shared = 0
    while parts and all(shared < len(each) - 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return [encodable("/".join(each[shared:])) for each in parts]


def anchor(path: str) -> str:
    """The folder that the keys of files below it are relative to: a folder itself, or what stands before a wildcard."""
    before = path
    for mark in "*?[{":
        before = before.partition(mark)[0]
    if before != path or is_image_file(path):
        before = before.rpartition("/")[0]
    if not is_url(path):
        return str(local(before or "."))
    system, inner = filesystem(before)
    return system.unstrip_protocol(inner)


def fingerprint(
    paths: list[str],
    *,
    settings: object = "",
    sizes: Mapping[str, int] | None = None,
    check_size: Callable[[str, int], None] | None = None,
    missing: Literal["refused", "counted"] = "refused",
) -> str:
    """A digest of short names, sizes and modification times (or entity tags), and of how the files are read.

    Args:
        paths: of the files.
        settings: how they are read.
        sizes: bytes that they must have.
        check_size: called with each file and its bytes, where they are known.
        missing: ``counted`` leaves a file that cannot be looked at to whoever reads it.

    Raises:
        InputError: no such file, or one that has not the bytes that ``sizes`` says.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
    for path, label in zip(paths, labels(paths), strict=True):
        if is_url(path):
            system, inner = filesystem(path)
            with refusing(f"{path:.200}: no such file"):
                info = system.info(inner)
            size, stamp = info.get("size"), f"{info.get('size')} {info.get('ETag') or info.get('mtime') or ''}"
        else:
            try:
                status = local(path).stat()
            except OSError as error:
                if missing == "counted":
                    digest.update(f"{label} {error.errno}\n".encode())
                    continue
                raise InputError(f"{path}: {reason_of(error)}") from error
            size, stamp = status.st_size, f"{status.st_size} {status.st_mtime_ns}"
        said = (sizes or {}).get(path)
        if said is not None and size is not None and said != size:
            raise InputError(
                f"{path}: has {size:,} bytes, the manifest says {said:,}; it is not whole, or another file"
            )
        if check_size is not None and size is not None:
            check_size(path, int(size))
        digest.update(f"{label}\x00{stamp}\x00".encode())
    return digest.hexdigest()


def points_outside(name: str) -> bool:
    """Whether the name of an archive's member would leave the folder that the archive is unpacked into."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0][1:2] or "\x00" in name


def without_ending(name: str) -> str:
    """A name without the ending of an image's file, where it has one.

    Example:
        >>> from tether.data.paths import without_ending
        >>> without_ending("sub/a.JPG"), without_ending("v1.2")
        ('sub/a', 'v1.2')
    """
    stem, dot, ending = name.rpartition(".")
    return stem if stem and dot + ending.lower() in _IMAGES else name


def is_image_file(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return name.lower().endswith(_IMAGES)


def is_folder(path: str) -> str | None:
    """Which kind of source reads a folder (or a pattern of images), by what lies in it; None when it is none."""
    if is_url(path):
        system, inner = filesystem(path)
        with refusing(f"{path:.200}: cannot list it"):
            if not system.isdir(inner):
                return None
            names = [Path(str(each)).name for each in system.find(inner)]
    else:
        folder = local(path)
        if not folder.is_dir():
            return "images" if is_image_file(path) and (has_magic(path) or folder.is_file()) else None
        names = [each.name for each in folder.iterdir()]
    if "state.json" in names or "dataset_dict.json" in names:
        return "hf"
    if not any(map(is_image_file, names)):
        for ending, kind in ((".parquet", "parquet"), (".tar", "webdataset")):
            if any(name.endswith(ending) for name in names):
                return kind
    return "images"
