"""Tables of images and captions: their columns, what one line becomes, and which files its cells may name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tether.core.atomic_io import local
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import encodable, is_text
from tether.core.types import ImageLike, Row
from tether.data.paths import is_url
from tether.data.remote import fetch, is_public, read_url

IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "image_bytes", "bytes", "filepath", "file_path")
IMAGE += ("image_path", "img_path", "path", "file_name", "filename", "image_file", "image_url", "url")
IMAGE += ("image_name", "file", "photo", "foto", "bild", "imagen")
CAPTION = (
    "captions",
    "caption",
    "texts",
    "text",
    "txt",
    "title",
    "sentences",
    "alt_text",
    "description",
    "prompt",
    "comment",
    "beschreibung",
    "titel",
    "legende",
    "légende",
    "texte",
    "descripcion",
    "descripción",
)
KEY = ("key", "__key__", "uid")
NONE = "none"
"""Said instead of a column's name: this table has no such column."""
_DEEPEST = 16
"""Levels of lists and mappings in a cell, at most; Parquet cannot read back what is much deeper."""
_LONGEST_NAME = 200
"""Characters of a name from a table that an error quotes, at most."""
_MOST_NAMES = 40
"""Columns that an error lists, at most."""
_LONGEST_PATH = 4096


def choose(name: str | None, *, guesses: Sequence[str], known: Iterable[str], what: str, where: str) -> str | None:
    """The column to use: the one named, else the first usual name that is there, else None."""
    known = list(known)
    if name == NONE:
        return None
    if name is not None:
        if name not in known:
            raise InputError(f"{where}: no column {name!r} for the {what}; {closest(name, known)}")
        return name
    lower = {column.lower(): column for column in reversed(known)}
    return next((lower[guess] for guess in guesses if guess in lower), None)


def choose_image(name: str | None, *, known: Iterable[str], where: str, spec: str) -> str | None:
    """The column of images; there must be one unless ``none`` was said.

    Args:
        name: of the column; None guesses.
        known: columns that are there.
        where: name of the table.
        spec: how the source is asked for, up to its settings, for the error.
    """
    known = list(known)
    found = choose(name, guesses=IMAGE, known=known, what="image", where=where)
    if found is None and name != NONE:
        raise InputError(
            f"{where}: no column of images found; say which one it is: {spec}image=NAME,caption=NAME, or image=none "
            f"for texts alone; known: {listed(known)}"
        )
    return found


def choose_captions(names: Sequence[str] | str, *, known: Iterable[str], where: str) -> tuple[str, ...]:
    """The columns of captions: all that were named, else the first usual name, else none."""
    known, names = list(known), [names] if isinstance(names, str) and names else names
    if not names:
        found = choose(None, guesses=CAPTION, known=known, what="caption", where=where)
        return () if found is None else (found,)
    chosen = [choose(name, guesses=CAPTION, known=known, what="caption", where=where) for name in names]
    return tuple(name for name in chosen if name is not None)


def shortened(name: str) -> str:
    """A name from a table for an error, cut where it is long."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."


def listed(names: Sequence[str]) -> str:
    """The names of columns for an error, the first of them where there are many."""
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(shortened, names[:_MOST_NAMES])) + more


def check_depth(cell: object, *, where: str = "", levels: int = _DEEPEST) -> None:
    """Refuse a cell of lists and mappings that lie too deep in one another."""
    if isinstance(cell, (list, tuple, Mapping)):
        if not levels:
            raise InputError(f"{where}lists in more than {_DEEPEST} levels")
        for each in cell.values() if isinstance(cell, Mapping) else cell:
            check_depth(each, where=where, levels=levels - 1)


def texts_of(cell: Any) -> tuple[str, ...]:
    """The captions in a cell: a text, UTF-8 bytes, a number, a list of them, or nothing."""
    check_depth(cell)
    return _texts_of(cell)


def _texts_of(cell: Any) -> tuple[str, ...]:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ()
    if isinstance(cell, str):
        if not is_text(cell):
            raise InputError("the caption is not UTF-8 text")
        return (cell,)
    if isinstance(cell, bytes):
        try:
            return (cell.decode(),)
        except UnicodeDecodeError as error:
            raise InputError(f"the caption is not UTF-8 text: byte {error.start}") from None
    if isinstance(cell, (list, tuple)):
        return tuple(text for item in cell for text in _texts_of(item))
    if isinstance(cell, (int, float)):
        return (str(cell),)
    raise InputError(f"expected a caption, got {type(cell).__name__}")


def image_of(cell: Any, *, reach: Reach) -> ImageLike | None:
    """The image in a cell: Hugging Face's struct of bytes and path, bytes, or the name of a file."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return reach.open(cell) if cell.strip() else None
    raise InputError(f"expected an image's bytes or path, got {type(cell).__name__}")


_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?((0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-][0-9]+)?|\.[0-9]+)")


def numbers_of(lines: Iterable[Mapping[str, object]]) -> dict[str, type[int] | type[float]]:
    """The columns of a table of texts whose every cell is a number or empty, and which kind.

    Numbers with leading zeros are names of something, such as ``007``, and stay text; so does a column with one such.

    Examples:
        >>> numbers_of([{"year": "2019", "stars": "4.5", "id": "007"}, {"year": "", "stars": "4", "id": "8"}])
        {'year': <class 'int'>, 'stars': <class 'float'>}
    """
    found: dict[str, type[int] | type[float] | None] = {}
    for line in lines:
        for name, cell in line.items():
            if cell in ("", None) or found.get(name, int) is None:
                continue
            text = cell if isinstance(cell, str) else ""
            if not _WHOLE.fullmatch(text):
                found[name] = float if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None
            else:
                found.setdefault(name, int)
    return {name: kind for name, kind in found.items() if kind is not None}


def make_row(key: str, *, image: Any, captions: Sequence[Any], meta: Mapping[str, object], reach: Reach) -> Row:
    """One row; what cannot be read becomes a row whose ``bad`` says why, for the reader to count."""
    try:
        for cell in meta.values():
            check_depth(cell)
        if not is_text(key) or not is_text(meta):
            raise InputError("its key or one of its columns is not UTF-8 text")
        texts = tuple(text for cell in captions for text in texts_of(cell))
        return Row(key, image_of(image, reach=reach), texts, meta)
    except InputError as error:
        return bad_row(key, str(error))


def bad_row(key: str, reason: str) -> Row:
    """A row that only says what is wrong with it."""
    return Row(encodable(key), None, bad=encodable(reason))


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
                raise InputError(f"{shortened(name)}: outside {self.folders[0]}; {_ROOT}")
            name = f"{self.folders[0].rstrip('/')}/{name}"
        if len(name) > _LONGEST_PATH:
            raise InputError(f"{shortened(name)}: not the name of a file")
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
        named = shortened(named or str(path))
        try:
            if len(str(path)) > _LONGEST_PATH:
                raise ValueError
            real = os.path.realpath(path)
            if any(_inside(real, folder) for folder in self.folders if not is_url(folder)):
                return Path(path)
        except (ValueError, OSError):  # a NUL, half a surrogate pair, or too long
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
