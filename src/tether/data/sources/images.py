"""Folders of images, with captions beside them or in a metadata file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePosixPath

from tether.core.atomic_io import local, parse_json
from tether.core.errors import InputError
from tether.core.printable import encodable, is_text
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.paths import anchor, files, fingerprint, is_image_file, is_url, labels, open_binary, read_text
from tether.data.sources.columns import IMAGE, Reach, bad_row, choose, choose_captions
from tether.data.sources.columns import texts_of as captions_in

_METADATA = ("metadata.jsonl", "metadata.csv", "captions.csv", "captions.tsv", "captions.txt")
_LONGEST = 1 << 22
"""Bytes of a text file beside an image, or of a line of metadata, at most."""
_FILE_COLUMNS = ("file_name", "filename", "file", *IMAGE, "image_name", "photo")
_CAPTION_COLUMNS = ("image", "caption")
"""Of a table without a header, as Flickr8k's ``name.jpg#0<tab>caption``."""
_SEPARATORS = ("\t", "|", ",", ";")


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
        tables = [each for each in visible if each.rpartition("/")[2].lower() in _METADATA]
        self._by_name: dict[str, str | None] = {}  # None where several images have the name
        for each in self._images:
            name = each.rpartition("/")[2]
            self._by_name[name] = None if name in self._by_name else each
        for table in tables:
            self._read_table(table, caption)
        if not self._images and not self._problems:
            raise InputError(f"{path}: the data set is empty (no images in it)")
        stems = [each.rpartition(".")[0] for each in self._images]
        beside = [self._sidecars[stem] for stem in stems if stem in self._sidecars]
        self.version = fingerprint([*self._images, *beside, *tables], settings=(caption, template))

    def __len__(self) -> int:
        """How many images, and lines of metadata without one, which come last and as bad rows."""
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

    def _inside(self, path: str) -> str:
        """A file beside the images, unless a link leads elsewhere."""
        return path if is_url(path) else str(self._reach.found(path))

    def _named(self, name: str, *, folder: str) -> str | None:
        """The image that a table names from its folder on, or by a file name that no other image has."""
        name = name.replace("\\", "/")
        path = f"{folder}/{name.removeprefix('./')}"
        return path if path in self._keys else self._by_name.get(name.rpartition("/")[2])

    def _read_table(self, table: str, names: Sequence[str] | str) -> None:
        lines = list(_lines(self._inside(table)))
        known = list(dict.fromkeys(name for _, line in lines if isinstance(line, dict) for name in line))
        file_column = choose(None, guesses=_FILE_COLUMNS, known=known, what="file", where=table)
        if lines and file_column is None:
            raise InputError(f"{table}: no column 'file_name'; known: {', '.join(known)}")
        caption_columns = choose_captions(names, known=known, where=table) if lines else ()
        for number, line in lines:
            place = f"{table.rpartition('/')[2]}:{number}"
            if isinstance(line, str):
                self._problems.append(bad_row(place, line))
                continue
            name = str(line.get(file_column or "") or "").strip()
            path = self._named(name, folder=table.rpartition("/")[0])
            if path is None:
                self._problems.append(bad_row(place, f"{table}: line {number} names {name!r}, which is not there"))
                continue
            try:
                texts = [text for column in caption_columns for text in captions_in(line.get(column))]
            except InputError as error:
                self._problems.append(bad_row(place, f"{table}: line {number}: {error}"))
                continue
            rest = {k: v for k, v in line.items() if k != file_column and k not in caption_columns}
            if not is_text(rest):
                self._problems.append(bad_row(place, f"{table}: line {number}: a column is not UTF-8 text"))
                continue
            before = self._metadata.get(path, ([], {}))[0]
            before.extend(texts)
            self._metadata[path] = (before, rest)


def _lines(table: str) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Line numbers with a line's columns, or with what is wrong with it."""
    number = 0
    with open_binary(table) as binary:
        try:
            if not table.lower().endswith(".jsonl"):
                text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
                first = text.readline(_LONGEST)
                mark = next((mark for mark in _SEPARATORS if mark in first), ",")
                header = None if is_image_file(_plain(first.split(mark)[0])) else first
                lines = chain([] if header else [first], iter(lambda: text.readline(_LONGEST), ""))
                names = next(csv.reader([header], delimiter=mark), []) if header else _CAPTION_COLUMNS
                reader = csv.DictReader(
                    lines, [name.strip() for name in names], delimiter=mark, restkey="", restval=None
                )
                for line in reader:
                    number = reader.line_num + bool(header)
                    wrong = "" in line or None in line.values()
                    cells = dict(line) if header else {**line, "image": _plain(line["image"])}
                    yield number, "another number of columns than the header" if wrong else cells
                return
            while data := binary.readline(_LONGEST + 1):
                number += 1
                if len(data) > _LONGEST:
                    raise InputError(f"{table}: line {number}: more than {_LONGEST} bytes")
                if data.strip():
                    yield number, _object(data)
        except (csv.Error, OSError) as error:
            raise InputError(f"{table}: after line {number}: {error}") from error


def _plain(name: str) -> str:
    """The file in ``name.jpg#0``, where the number counts the captions of one image."""
    return re.sub(r"#\d+$", "", name.strip().strip('"'))


def _object(line: bytes) -> dict[str, object] | str:
    try:
        value = parse_json(line, where="not JSON")
    except InputError as error:
        return str(error)
    return value if isinstance(value, dict) else f"expected an object, got {type(value).__name__}"


def _parts(key: str) -> tuple[str, ...]:
    return PurePosixPath(key).parts


def _is_hidden(key: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in _parts(key))
