"""Tables of images and captions: which columns they stand in, and what one line of them becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import encodable, is_text
from tether.core.types import ImageLike, Row
from tether.data.sources.cells import Reach

IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "image_bytes", "bytes", "filepath", "file_path")
IMAGE += ("image_path", "img_path", "path", "file_name", "filename", "image_file", "image_url", "url")
CAPTION = ("captions", "caption", "texts", "text", "txt", "title", "sentences", "alt_text", "description", "prompt")
KEY = ("key", "__key__", "uid")
NONE = "none"
"""Said instead of a column's name: this table has no such column."""


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


def choose_image(name: str | None, *, known: Iterable[str], where: str) -> str | None:
    """The column of images; there must be one unless ``none`` was said."""
    known = list(known)
    found = choose(name, guesses=IMAGE, known=known, what="image", where=where)
    if found is None and name != NONE:
        raise InputError(
            f"{where}: no column of images found; say which one with image=NAME; known: {', '.join(known)}"
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


def texts_of(cell: Any) -> tuple[str, ...]:
    """The captions in a cell: a text, UTF-8 bytes, a number, a list of them, or nothing."""
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
        return tuple(text for item in cell for text in texts_of(item))
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


def make_row(key: str, *, image: Any, captions: Sequence[Any], meta: Mapping[str, object], reach: Reach) -> Row:
    """One row; what cannot be read becomes a row whose ``bad`` says why, for the reader to count."""
    try:
        if not is_text(key) or not is_text(meta):
            raise InputError("its key or one of its columns is not UTF-8 text")
        texts = tuple(text for cell in captions for text in texts_of(cell))
        return Row(key, image_of(image, reach=reach), texts, meta)
    except InputError as error:
        return bad_row(key, str(error))


def bad_row(key: str, reason: str) -> Row:
    """A row that only says what is wrong with it."""
    return Row(encodable(key), None, bad=encodable(reason))
