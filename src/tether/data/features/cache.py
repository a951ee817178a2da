"""The feature cache: rows that a model gave, kept by key in files that only grow and that are mapped into memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Float

from tether.core.atomic_io import read_json, regular, write_json
from tether.core.cache_folder import cache_dir
from tether.core.errors import InputError, WriteError
from tether.core.locks import locked
from tether.core.types import ImageLike

KEY_BYTES = 16
FORMAT = "tether-features-1"
ABOUT, KEYS, ROWS = "about.json", "keys.bin", "rows.bin"
_ENTRY = np.dtype([("key", f"V{KEY_BYTES}"), ("row", "<u4"), ("check", "<u4")])
_WAIT = 120.0
"""Seconds to wait for another process that is writing; each holds the lock for one batch."""


def feature_key(*parts: bytes | str) -> bytes:
    """16 bytes that stand for these parts in order; no two sequences of parts are told as one."""
    found = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        plain = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(plain).to_bytes(8, "little") + plain)
    return found.digest()


def image_key(image: ImageLike) -> bytes:
    """16 bytes that stand for an image before it is decoded: of its bytes or pixels, or of a file and its last change.

    A file counts as another one when its size, the time it was last written or that of its last change of any kind is
    another, so that one which was replaced is never taken for what it was, whatever a table or a source says of it.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return feature_key("bytes", bytes(image))
    if isinstance(image, np.ndarray):
        return feature_key("pixels", f"{image.dtype} {image.shape}", image.tobytes())
    try:
        status = Path(image).stat()
    except OSError:
        return os.urandom(KEY_BYTES)  # found nowhere; whoever opens the file says what is wrong with it
    about = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return feature_key("file", str(Path(image).absolute()), about)


@final
class FeatureCache:
    """Float32 rows of one width by key, in a folder that several processes may use at once.

    A row is written once and never changed. ``rows.bin`` holds the rows one after another and is mapped, so only those
    that are asked for are read; ``keys.bin`` says which key has which row, with a checksum over both. What was cut
    short, by a kill or a full disk, or damaged since, is not found, and whoever needs it makes it again.

    Attributes:
        folder: of the files.
        width: of a row.
        digest: of what gives the rows; a folder with rows of another is emptied at the first write, which is said.

    Example:
        >>> import tempfile, numpy as np
        >>> from tether.data.features.cache import FeatureCache, feature_key
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(f"{folder}/rows", digest="of the tower", width=2)
        ...     cache.put([feature_key("cat")], np.ones((1, 2), np.float32))
        ...     cache.get([feature_key("dog"), feature_key("cat")])[1].tolist()
        [False, True]
    """

    def __init__(self, folder: str | Path, *, digest: str, width: int) -> None:
        """Look at a folder, which need not be there yet.

        Args:
            folder: of the files.
            digest: of what gives the rows.
            width: of a row, at least 1.
        """
        self.folder, self.digest, self.width = Path(folder), digest, width
        self._places: dict[bytes, tuple[int, int]] = {}
        self._read = 0  # entries of the table that were looked at
        self._rows: np.ndarray = np.empty((0, width), np.float32)
        self._of_another = False
        self.refresh()

    @classmethod
    def of(cls, digest: str, *, width: int) -> FeatureCache:
        """The cache of what has this digest, in the user's cache directory."""
        return cls(cache_dir() / "features" / digest, digest=digest, width=width)

    def __len__(self) -> int:
        """Keys that are known."""
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        """Whether there is a sound row for a key."""
        return bool(self.get([key])[1][0])

    def get(self, keys: Sequence[bytes]) -> tuple[Float[np.ndarray, "n w"], Bool[np.ndarray, " n"]]:
        """The rows of n keys, zero where there is none, and which there are."""
        found, there = np.zeros((len(keys), self.width), np.float32), np.zeros(len(keys), bool)
        for number, key in enumerate(keys):
            place = self._places.get(key)
            if place is None:
                continue
            row = self._rows[place[0]] if place[0] < len(self._rows) else None
            if row is None or _check(key, row) != place[1]:
                del self._places[key]  # cut short or damaged
                continue
            found[number], there[number] = row, True
        return found, there

    def put(
        self,
        keys: Sequence[bytes],
        rows: Float[np.ndarray, "n w"],
        *,
        names: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Add rows; those whose key is there, from this process or another, are left as they are.

        Args:
            keys: of the n rows.
            rows: what is kept.
            names: pairs of a further key and the key whose row it stands for.

        Raises:
            InputError: rows of another width, or a key without a row.
            WriteError: a full disk, no permission; what was there before stays.
            LockedError: another process writes without end.
        """
        if rows.shape != (len(keys), self.width):
            raise InputError(f"{self.folder}: expected ({len(keys)}, {self.width}) rows, got {rows.shape}")
        with locked(self.folder, purpose="the feature cache", wait=_WAIT):
            self.refresh()
            if self._of_another or not (self.folder / ABOUT).exists():
                self._begin()
            first, added, entries = len(self._rows), dict[bytes, int](), list[tuple[bytes, int, int]]()
            new: list[np.ndarray] = []
            for key, row in zip(keys, np.ascontiguousarray(rows, np.float32), strict=True):
                if key not in self._places and key not in added:
                    added[key] = first + len(new)
                    entries.append((key, added[key], _check(key, row)))
                    new.append(row)
            for name, key in names:
                if name in self._places or name in added:
                    continue
                if key not in added and key not in self._places:
                    raise InputError(f"{self.folder}: a further key for a row that is not there")
                place = added[key] if key in added else self._places[key][0]
                row = new[place - first] if place >= first else self._rows[place]
                entries.append((name, place, _check(name, row)))
            if not entries:
                return
            _append(self.folder / ROWS, b"".join(row.tobytes() for row in new), size=4 * self.width)
            _append(self.folder / KEYS, np.array(entries, _ENTRY).tobytes(), size=_ENTRY.itemsize)
            self.refresh()

    def check(self) -> None:
        """See that rows can be added.

        Raises:
            WriteError: no permission, a full disk.
        """
        with locked(self.folder, purpose="the feature cache", wait=_WAIT):
            pass

    def refresh(self) -> None:
        """Look at what other processes have added."""
        about = self.folder / ABOUT
        try:
            self._of_another = about.exists() and read_json(about) != self._about()
        except InputError:
            self._of_another = True
        if self._of_another or not about.exists():
            self._places, self._read, self._rows = {}, 0, np.empty((0, self.width), np.float32)
            return
        table = self.folder / KEYS
        if _size(table) // _ENTRY.itemsize < self._read:  # somebody emptied it
            self._places, self._read = {}, 0
        data = b""
        if _size(table) // _ENTRY.itemsize > self._read:
            with regular(table).open("rb") as file:
                file.seek(self._read * _ENTRY.itemsize)
                data = file.read()
        entries = np.frombuffer(data, _ENTRY, count=len(data) // _ENTRY.itemsize)
        count = _size(self.folder / ROWS) // (4 * self.width)  # after the table, whose rows are written before it
        if count != len(self._rows):
            none = np.empty((0, self.width), np.float32)
            self._rows = np.memmap(self.folder / ROWS, np.float32, "r", shape=(count, self.width)) if count else none
        columns = entries["key"], entries["row"].tolist(), entries["check"].tolist()
        self._places.update(
            (key.tobytes(), (row, check)) for key, row, check in zip(*columns, strict=True) if row < count
        )
        self._read += len(entries)

    def _about(self) -> Mapping[str, str | int]:
        return {"format": FORMAT, "digest": self.digest, "width": self.width}

    def _begin(self) -> None:
        """Make the files anew."""
        if self._of_another:
            warnings.warn(f"{self.folder}: a feature cache of another model; it is made anew", stacklevel=4)
        for name in (KEYS, ROWS):
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.folder / ABOUT, self._about())
        self.refresh()


def _check(key: bytes, row: np.ndarray) -> int:
    return zlib.crc32(row.tobytes(), zlib.crc32(key))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _append(path: Path, data: bytes, *, size: int) -> None:
    """Add records of one size to a file; the rest of one that was cut short goes, and so does what fails half way."""
    whole = _size(path) // size * size
    try:
        with regular(path).open("r+b" if path.exists() else "w+b", buffering=0) as file:
            file.truncate(whole)
            file.seek(whole)
            left = memoryview(data)
            try:
                while left:
                    left = left[file.write(left) :]
            except BaseException:
                with contextlib.suppress(OSError):  # the checksums find what cannot be cut
                    file.truncate(whole)
                raise
    except OSError as error:
        raise WriteError(path, error, safe="the rows that were kept before stay") from error
