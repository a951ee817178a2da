"""Which files the cells of a table may name: those of the table's folder, and public hosts' where the user says so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.types import ImageLike
from tether.data.paths import is_url
from tether.data.remote import fetch, is_public, read_url

REMOTE = ("http", "https", "s3", "gs", "az", "hf")
"""Protocols that a cell may name where remote images are allowed."""
_REVISION = re.compile(r"(hf://datasets/[^/@]+/[^/@]+)@[^/]+")


@dataclass(frozen=True, slots=True)
class Reach:
    """What the cells of a table may name; the table may come from anyone.

    Attributes:
        folders: folders or URLs below which images may lie; relative names start from the first.
        remote: whether cells may name URLs elsewhere (``REMOTE``), on public hosts only.
        allowed: whether an address may be connected to.
    """

    folders: tuple[str, ...]
    remote: bool = False
    allowed: Callable[[str], bool] = is_public

    def open(self, name: str) -> ImageLike:
        """The path of a local image, which is read when it is decoded; the bytes behind a URL."""
        if not is_url(name) and not is_url(self.folders[0]):
            return self.found(Path(self.folders[0]) / name, named=name)
        if not is_url(name):
            if name.startswith("/"):
                raise InputError(f"{name}: outside {self.folders[0]}; {_ROOT}")
            name = f"{self.folders[0].rstrip('/')}/{name}"
        if "::" in name:
            raise InputError(f"{name}: chains of protocols (::) are not followed")
        parts = urlsplit(name)
        if ".." in PurePosixPath(unquote(parts.path)).parts or "@" in parts.netloc:
            raise InputError(f"{name}: a URL with .. or a user's name is not opened")
        own = next((folder for folder in self.folders if is_url(folder) and _below(name, folder)), None)
        if own is None and parts.scheme not in REMOTE:
            raise InputError(f"{name}: {parts.scheme}:// is not opened; expected a path or {', '.join(REMOTE)}")
        if own is None and not self.remote:
            raise InputError(f"{name}: a URL; remote_images=true allows them")
        if parts.scheme not in ("http", "https"):
            return read_url(name)
        return fetch(name, allowed=self.allowed, trusted="" if own is None else urlsplit(own).netloc)

    def found(self, path: str | Path, *, named: str = "") -> Path:
        """A local file, unless it lies outside the folders or a link leads out of them.

        Args:
            path: of the file.
            named: what the error calls it; empty says the path.
        """
        named = named or str(path)
        try:
            real = os.path.realpath(path)
            if any(_inside(real, folder) for folder in self.folders if not is_url(folder)):
                return Path(path)
        except (ValueError, OSError):  # a NUL, or half a surrogate pair
            raise InputError(f"{named!r}: not the name of a file") from None
        raise InputError(f"{named}: outside {self.folders[0] or 'the data set'}; {_ROOT}")


def folder_of(table: str, *, root: str | None) -> str:
    """Where the relative names of a table start from: the folder that the user gave, else the table's own."""
    if root is None:
        return table.rpartition("/")[0]
    return root if is_url(root) else str(local(root))


_ROOT = "root=FOLDER says below which folder images may lie"


def _inside(path: str, folder: str) -> bool:
    folder = os.path.realpath(folder)
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _below(url: str, folder: str) -> bool:
    return _REVISION.sub(r"\1", url).startswith(_REVISION.sub(r"\1", folder).rstrip("/") + "/")
