"""Folders of images, with captions beside them or in a metadata file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import PurePosixPath

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.printable import encodable, is_text
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.paths import anchor, files, fingerprint, is_image_file, is_url, labels, read_text
from tether.data.sources.caption_table import CaptionTable
from tether.data.sources.columns import (
    IMAGE,
    Reach,
    bad_row,
    check_depth,
    choose,
    choose_captions,
    listed,
    numbers_of,
    shortened,
)
from tether.data.sources.columns import texts_of as captions_in

METADATA = ("metadata.jsonl", "metadata.csv", "captions.csv", "captions.tsv", "captions.txt")
"""Names of tables that are read with a folder of images, in small letters."""
_LONGEST = 1 << 22
"""Bytes of a text file beside an image, at most."""
_FILE_COLUMNS = ("file_name", "filename", "file", *IMAGE)
_MOST_PROBLEMS = 1000
"""Lines of metadata that are bad rows of their own, at most; one row counts those after them."""


class ImageFolderSource(IndexedSource):
    """Every image under a folder, in the order of their names.

    Captions come from a ``metadata.csv`` or ``metadata.jsonl`` with a column ``file_name`` (Hugging Face's
    imagefolder), from a ``captions.csv``, ``captions.tsv`` or ``captions.txt`` (a column of files and one of captions,
    or Flickr8k's ``name.jpg#0<tab>caption`` without a header), from a text file of the same name (each line one
    caption), or from ``template``. A table names its images from its own folder on, or by a file name that only one
    image has. The name of the folder that an image lies in becomes ``meta["label"]``. Hidden files are left out.
    """

    block_rows = 1024

    @checked
    def __init__(
        self,
        path: str,
        *,
        caption: tuple[str, ...] | str = (),
        template: str = "",
        root: str | None = None,
    ) -> None:
        """List the folder and read its metadata files.

        Args:
            path: a folder, a pattern of images, or a URL of one.
            caption: columns of the metadata files that hold captions; empty guesses one.
            template: caption of images that have none, with ``{label}`` for the folder's name.
            root: a folder that links may lead to as well; without it they end below ``path``.

        Raises:
            InputError: no such folder, no image in it, or a metadata file that does not fit.
        """
        self.name = encodable(str(path))
        if template and "{label}" not in template:
            raise InputError(f"{path}: template: expected {{label}} in it, got {template!r}")
        self._template = template
        found = files(path, ending=("",))
        self._reach = Reach((anchor(path), *([str(local(root))] if root else [])))
        inside = dict(zip(found, labels(found, folder=anchor(path)), strict=True))
        visible = [each for each in found if not _is_hidden(inside[each])]
        self._images = [each for each in visible if is_image_file(each)]
        self._keys = {each: inside[each] for each in self._images}
        self._sidecars = {each.rpartition(".")[0]: each for each in visible if each.lower().endswith(".txt")}
        self._metadata: dict[str, tuple[list[str], Mapping[str, object]]] = {}
        self._problems: list[Row] = []
        tables = [each for each in visible if each.rpartition("/")[2].lower() in METADATA]
        self._by_name: dict[str, str | None] = {}  # None where several images have the name
        for each in self._images:
            name = each.rpartition("/")[2]
            self._by_name[name] = None if name in self._by_name else each
        self._more_problems = 0
        self._typed = any(table.lower().endswith(".jsonl") for table in tables)  # whose texts are meant as such
        for table in tables:
            self._read_table(table, caption)
        if self._more_problems:
            reason = f"{self._more_problems:,} lines more of the metadata files cannot be used"
            self._problems.append(bad_row("metadata files", reason))
        if not self._images and not self._problems:
            raise InputError(f"{path}: the data set is empty (no images in it)")
        stems = [each.rpartition(".")[0] for each in self._images]
        beside = [self._sidecars[stem] for stem in stems if stem in self._sidecars]
        self.version = fingerprint([*self._images, *beside, *tables], settings=(caption, template), missing="counted")

    def __len__(self) -> int:
        """How many images, and lines of metadata that cannot be used, which come last and as bad rows."""
        return len(self._images) + len(self._problems)

    def row(self, index: int) -> Row:
        """One row."""
        if index >= len(self._images):
            return self._problems[index - len(self._images)]
        path = self._images[index]
        key = self._keys[path]
        parts = _parts(key)
        meta: dict[str, object] = {"label": parts[-2]} if len(parts) > 1 else {}
        try:
            if path in self._metadata:
                texts, columns = self._metadata[path]
                texts = tuple(texts)
                meta.update(columns)
            elif (sidecar := self._sidecars.get(path.rpartition(".")[0])) is not None:
                lines = read_text(self._inside(sidecar), limit=_LONGEST).splitlines()
                texts = tuple(line.strip() for line in lines if line.strip())
            elif self._template and "label" in meta:
                texts = (self._template.replace("{label}", str(meta["label"]).replace("_", " ")),)
            else:
                texts = ()
            return Row(key, self._reach.open(path) if is_url(path) else self._reach.found(path), texts, meta)
        except InputError as error:
            return bad_row(key, str(error))

    @property
    def numbers(self) -> dict[str, type[int] | type[float]]:
        """Columns of ``meta`` whose every text is a number, see ``columns.numbers_of``."""
        if self._typed:
            return {}
        found = numbers_of(columns for _, columns in self._metadata.values())
        if len(self._metadata) < len(self._images):
            found.pop("label", None)  # the others' is their folder's name
        return found

    def _inside(self, path: str) -> str:
        """A file beside the images, unless a link leads elsewhere."""
        return path if is_url(path) else str(self._reach.found(path))

    def _named(self, name: str, *, folder: str) -> str | None:
        """The image that a table names from its folder on, or by a file name that no other image has."""
        name = name.replace("\\", "/")
        path = f"{folder}/{name.removeprefix('./')}"
        return path if path in self._keys else self._by_name.get(name.rpartition("/")[2])

    def _read_table(self, path: str, names: Sequence[str] | str) -> None:
        table = CaptionTable(self._inside(path), name=path)
        lines = table.lines()
        first = next(lines, None)
        if first is None:
            return
        file_column = choose(None, guesses=_FILE_COLUMNS, known=table.columns, what="file", where=path)
        if file_column is None:
            raise InputError(
                f"{path}: no column of images found, such as file_name; known: {listed(table.columns)}; say which one "
                f"it is: csv:path={path},image=NAME,caption=NAME"
            )
        caption_columns = choose_captions(names, known=table.columns, where=path)
        folder, _, base = path.rpartition("/")
        for number, line in chain([first], lines):
            reason = (
                line
                if isinstance(line, str)
                else self._refusal(line, folder=folder, file_column=file_column, caption_columns=caption_columns)
            )
            if reason and len(self._problems) < _MOST_PROBLEMS:
                self._problems.append(bad_row(f"{base}:{number}", f"{path}: line {number}: {reason}"))
            elif reason:
                self._more_problems += 1

    def _refusal(
        self, line: dict[str, object], *, folder: str, file_column: str, caption_columns: Sequence[str]
    ) -> str:
        """Keep one line of a table, or say what is wrong with it."""
        cell = line.get(file_column)
        name = str(cell).strip() if isinstance(cell, (str, int, float)) else ""
        path = self._named(name, folder=folder)
        if path is None:
            return f"it names {shortened(name)!r}, which is not there"
        rest = {k: v for k, v in line.items() if k != file_column and k not in caption_columns}
        try:
            texts = [text for column in caption_columns for text in captions_in(line.get(column))]
            for column, value in rest.items():
                check_depth(value, where=f"column {shortened(column)!r}: ")
        except InputError as error:
            return str(error)
        if not is_text(rest):
            return "a column is not UTF-8 text"
        before = self._metadata.get(path, ([], {}))[0]
        before.extend(texts)
        self._metadata[path] = (before, rest)
        return ""


def _parts(key: str) -> tuple[str, ...]:
    return PurePosixPath(key).parts


def _is_hidden(key: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in _parts(key))
