"""WebDataset tars: files that share a name up to the first dot are one row. Nothing is ever written to disk."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tether.core.atomic_io import parse_json
from tether.core.errors import InputError, reason_of
from tether.core.printable import encodable
from tether.core.ranges import checked
from tether.core.types import Block, Row
from tether.data.archives import BROKEN, FREE_BYTES, MOST_TIMES, TarStream
from tether.data.image_file import MAX_BYTES
from tether.data.manifests import shard_files, sizes_of
from tether.data.paths import fingerprint, is_image_file, labels, open_binary, points_outside
from tether.data.sources.columns import CAPTION, bad_row, check_depth, texts_of

_ENDINGS = (".tar", ".tar.gz", ".tgz")
_READ = ("txt", "json", "cls")
_LONGEST = 1 << 22
"""Bytes of one text, JSON or label that are read, at most, as ``MAX_BYTES`` of an image; a larger one is a bad row."""
_ABSURD = 1 << 32
"""Bytes that a member may claim, at most; skipping what is not there would take for ever, so the tar is broken."""
_DIGITS = 19
"""A label of as many digits or more stays text."""


class WebDatasetSource:
    """Rows of one or many tars, each tar one block, read as a stream.

    The image is the member with an image's ending. Captions stand in ``.txt``, or in the ``.json`` under a usual
    name. ``.json`` fills ``meta``, ``.cls`` becomes ``meta["label"]``, other members are passed over. A member with
    an absolute path or ``..``, one that is no plain file, and one that is too large is refused as a bad row. A broken
    tar, or one that unpacks to far more than its size, gives the rows before the break and then an error that names it.
    """

    @checked
    def __init__(
        self, path: str, *, caption: tuple[str, ...] | str = (), text: Literal["lines", "whole"] = "lines"
    ) -> None:
        """Find the tars; nothing is read yet.

        Args:
            path: a tar, a folder of tars, a pattern, numbered shards ``{0000..0012}.tar``, a manifest, or the URL of
                one.
            caption: keys of the ``.json`` that hold captions, used instead of ``.txt``.
            text: ``lines``: each line of a ``.txt`` is one caption; ``whole``: the file is one.

        Raises:
            InputError: no such file, or one that cannot hold the rows that a manifest says.
        """
        self.name = encodable(str(path))
        self._paths, said = shard_files(path, ending=_ENDINGS)
        self._by_id = dict(zip(labels(self._paths), self._paths, strict=True))
        self._captions = (caption,) if isinstance(caption, str) else tuple(caption)
        self._lines = text == "lines"
        rows = {path: shard.rows for path, shard in said.items() if shard.rows is not None}
        self.version = fingerprint(
            self._paths,
            settings=(caption, text),
            sizes=sizes_of(said),
            check_size=lambda path, size: _check_room(path, size, rows=rows.get(path, 0)),
        )
        self._rows = [rows.get(each) for each in self._paths]
        for path in (each for each, count in rows.items() if not count):  # which nobody would open
            if next(groups(path, start=0), None) is not None:
                raise InputError(f"{path}: holds rows, its manifest says 0")

    def blocks(self) -> Sequence[Block]:
        """One for each tar; how many rows it holds, only a manifest or reading tells."""
        return [Block(label, rows) for label, rows in zip(self._by_id, self._rows, strict=True)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one tar from row ``start`` on.

        Raises:
            InputError: the tar is broken, or holds other rows than the manifest says; the rows before were given.
        """
        if block.id not in self._by_id:
            raise InputError(f"{self.name}: no tar {block.id!r}")
        found, number = groups(self._by_id[block.id], start=start), -1
        for number, group in enumerate(found):
            if block.rows is not None and number == block.rows - 1 and next(found, None) is not None:
                raise InputError(
                    f"{self._by_id[block.id]}: holds more than the {block.rows:,} rows that its manifest says"
                )
            if number >= start:
                yield self._row(group)
        if block.rows is not None and number + 1 < block.rows:
            raise InputError(f"{self._by_id[block.id]}: holds {number + 1:,} rows, its manifest says {block.rows:,}")

    def _row(self, group: Group) -> Row:
        if group.refused:
            return bad_row(group.key, group.refused)
        key = encodable(group.key)
        meta: dict[str, object] = {}
        try:
            if "json" in group.members:
                meta.update(_object(group.members["json"]))
            if "cls" in group.members:
                label = texts_of(group.members["cls"])[0].strip()
                meta["label"] = int(label) if label.isdecimal() and len(label) < _DIGITS else label
            return Row(key, group.image, self._texts(group, meta), meta)
        except InputError as error:
            return bad_row(group.key, str(error))

    def _texts(self, group: Group, meta: dict[str, object]) -> tuple[str, ...]:
        if self._captions:
            missing = [name for name in self._captions if name not in meta]
            if missing:
                raise InputError(f"no {missing[0]!r} in the .json")
            return tuple(text for name in self._captions for text in texts_of(meta[name]))
        if "txt" in group.members:
            text = texts_of(group.members["txt"])[0].strip()
            return tuple(line.strip() for line in text.splitlines() if line.strip()) if self._lines else (text,)
        return next((texts_of(meta[name]) for name in CAPTION if name in meta), ())


def _check_room(path: str, size: int, *, rows: int) -> None:
    """See that a tar may hold the rows that its manifest says, since memory for their parts is set aside by it."""
    most = size if path.lower().endswith(".tar") else max(FREE_BYTES, MOST_TIMES * size)
    if rows * tarfile.BLOCKSIZE > most:
        raise InputError(f"{path}: has {size:,} bytes, which cannot hold the {rows:,} rows that its manifest says")


@dataclass(slots=True)
class Group:
    """Members of a tar that share a name up to the first dot; ``refused`` says why one of them is not taken."""

    key: str
    image: bytes | None = None
    members: dict[str, bytes] = field(default_factory=dict)
    refused: str = ""


def groups(path: str, *, start: int = 0, endings: Collection[str] = _READ) -> Iterator[Group]:
    """Groups of members in order; before ``start`` their bytes are passed over.

    Args:
        path: of the tar.
        start: group whose bytes are read first.
        endings: of the members that are read, beside images.

    Raises:
        InputError: the tar is broken; the groups before the break were given.
    """
    group: Group | None = None
    count = 0
    with open_binary(path) as file:
        try:
            archive = TarStream(file)
            try:
                while (member := archive.next()) is not None:
                    if member.isdir():
                        continue
                    if member.size > _ABSURD:
                        raise tarfile.ReadError(f"{member.name!r} claims to have {member.size} bytes")
                    key, ending = _split(member.name)
                    if group is None or key != group.key:
                        if group is not None:
                            yield group
                            count += 1
                        group = Group(key)
                    is_image = is_image_file(f".{ending}")
                    most = MAX_BYTES if is_image else _LONGEST if ending in endings else _ABSURD
                    if reason := _against(member, most=most):
                        group.refused = reason
                    elif count >= start and is_image:
                        data = archive.read(member)
                        group.image = group.image if group.image is not None else data
                    elif count >= start and ending in endings:
                        group.members.setdefault(ending, archive.read(member))
                archive.check_end()
            finally:
                archive.close()
        except BROKEN as error:
            if group is not None and group.image and group.members:
                yield group  # its members so far are whole
                count += 1
            raise InputError(f"{path}: the tar is broken after {count} rows: {reason_of(error)}") from error
    if group is not None:
        yield group


def _split(name: str) -> tuple[str, str]:
    """Key and ending: ``a/0001.image.jpg`` is row ``a/0001`` and ending ``jpg``."""
    folder, slash, base = name.rpartition("/")
    stem, _, endings = base.partition(".")
    return f"{folder}{slash}{stem}".removeprefix("./"), endings.rpartition(".")[2].lower()


def _against(member: tarfile.TarInfo, *, most: int) -> str:
    """Why a member is refused, or the empty string."""
    if points_outside(member.name):
        return f"the tar holds {member.name!r}, which points outside of it"
    if not member.isfile() or member.issparse():
        return f"the tar holds {member.name!r}, which is a link or device and no file"
    if member.size > most:
        return f"the tar holds {member.name!r} of {member.size} bytes; more than {most} are refused"
    return ""


def _object(data: bytes) -> dict[str, object]:
    value = parse_json(data, where="the .json cannot be read")
    if not isinstance(value, dict):
        raise InputError(f"the .json holds {type(value).__name__}, expected an object")
    check_depth(value, where="the .json holds ")
    return value
