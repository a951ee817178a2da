"""One test set in clip_benchmark's WebDataset layout: numbered tars for each split, names and templates beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from tether.core.arrays import read_array
from tether.core.atomic_io import read_text
from tether.core.errors import InputError
from tether.core.printable import encodable, quoted
from tether.core.types import Block, Row
from tether.data.paths import fingerprint
from tether.data.sources.columns import bad_row
from tether.data.sources.webdataset import Group, groups

Kind = Literal["classification", "multilabel", "retrieval"]
KINDS: tuple[Kind, ...] = ("classification", "multilabel", "retrieval")
COUNT, NAMES = "nshards.txt", "classnames.txt"
TEMPLATES, KIND = "zeroshot_classification_templates.txt", "dataset_type.txt"
SLOT = "{c}"
"""Where a class's name goes in a template."""
_MEMBER = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
_MOST_SHARDS = 100_000
_MOST_BYTES = 1 << 24
"""Of a file of lines."""


@dataclass(frozen=True)
class ShardSet:
    r"""A test set of tars.

    Attributes:
        name: what it is called in tables.
        folder: where it lies.
        kind: what its rows hold besides an image: a class's number, a vector of zeros and ones, or captions.
        classes: names by number; empty for retrieval.
        templates: prompts with ``{c}`` for the name; empty where the file is missing.

    Example:
        >>> import tarfile, tempfile
        >>> from pathlib import Path
        >>> from tether.data.suites import ShardSet
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "test").mkdir()
        >>> for name, text in {"test/nshards.txt": "1", "classnames.txt": "cat\ndog"}.items():
        ...     _ = (folder / name).write_text(text)
        >>> tarfile.open(folder / "test" / "0.tar", "w").close()
        >>> ShardSet.open(folder, name="pets").classes
        ('cat', 'dog')
    """

    name: str
    folder: Path
    kind: Kind
    classes: tuple[str, ...]
    templates: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path, *, name: str) -> ShardSet:
        """Read what stands beside the tars, and see that the test split's tars are there.

        Args:
            folder: holds ``test/`` with ``nshards.txt`` and ``0.tar`` and so on.
            name: what the set is called.

        Raises:
            InputError: a file that is missing or says what cannot be: it is named.
        """
        kind = _kind(folder / KIND)
        classes, templates = (), ()
        if kind != "retrieval":
            classes = _lines(folder / NAMES)
            if len(classes) < 2:
                raise InputError(f"{folder / NAMES}: {len(classes)} class; expected at least 2, one name on each line")
            templates = _lines(folder / TEMPLATES) if (folder / TEMPLATES).is_file() else ()
            for number, line in enumerate(templates, 1):
                if SLOT not in line:
                    raise InputError(f"{folder / TEMPLATES}: line {number} has no {SLOT} for the name: {quoted(line)}")
        found = cls(name, folder, kind, classes, templates)
        found.source("test")
        return found

    def has(self, split: str) -> bool:
        """Whether there is such a split, with tars."""
        return (self.folder / split / COUNT).is_file()

    def source(self, split: str) -> ShardSource:
        """The rows of a split; every one must be good.

        Raises:
            InputError: no such split, or a tar that ``nshards.txt`` counts is missing.
        """
        return ShardSource(self, split=split)

    @property
    def version(self) -> str:
        """A digest of the files of the test split and of the lists beside it."""
        beside = [self.folder / name for name in (NAMES, TEMPLATES, KIND) if (self.folder / name).is_file()]
        splits = [split for split in ("test", "train") if self.has(split)]
        tars = [path for split in splits for path in self.source(split).paths]
        return fingerprint([*map(str, beside), *tars], settings=(self.kind, self.classes, self.templates))


class ShardSource:
    """The rows of one split: an image with ``meta["label"]``, ``meta["labels"]`` or texts. A ``core.protocols.Source``.

    Attributes:
        name: folder and split.
        paths: of the tars, by number.
        version: digest of the tars.
    """

    def __init__(self, of: ShardSet, *, split: str) -> None:
        """Find the tars; nothing of them is read yet.

        Args:
            of: the set.
            split: folder of the tars.

        Raises:
            InputError: see ``ShardSet.source``.
        """
        folder = of.folder / split
        count = _count(folder / COUNT)
        self.name = encodable(str(folder))
        self.paths = [str(folder / f"{number}.tar") for number in range(count)]
        missing = [path for path in self.paths if not Path(path).is_file()]
        if missing:
            raise InputError(
                f"{missing[0]}: no such file, but {folder / COUNT} says {count} shards"
                f"{'' if len(missing) == 1 else f'; {len(missing)} of them are missing'}"
            )
        self._kind, self._classes = of.kind, len(of.classes)
        self._by_id = {f"{split}/{Path(path).name}": path for path in self.paths}
        self.version = fingerprint(self.paths, settings=of.kind)

    def blocks(self) -> Sequence[Block]:
        """One for each tar."""
        return [Block(label) for label in self._by_id]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one tar from row ``start`` on; a row that does not fit is bad and says why.

        Raises:
            InputError: the tar is broken.
        """
        ending = _MEMBER[self._kind]
        for number, group in enumerate(groups(self._by_id[block.id], start=start, endings=(ending,))):
            if number >= start:
                key = f"{block.id}:{encodable(group.key)}"
                try:
                    yield self._row(group, key=key)
                except InputError as error:
                    yield bad_row(key, str(error))

    def _row(self, group: Group, *, key: str) -> Row:
        if group.refused:
            raise InputError(group.refused)
        ending = _MEMBER[self._kind]
        if ending not in group.members:
            raise InputError(f"no .{ending}, which every row of a {self._kind} set has")
        if group.image is None:
            raise InputError("no image")
        data = group.members[ending]
        if self._kind == "retrieval":
            return Row(key, group.image, _captions(data))
        if self._kind == "multilabel":
            return Row(key, group.image, meta={"labels": _marks(data, classes=self._classes)})
        return Row(key, group.image, meta={"label": _label(data, classes=self._classes)})


def _captions(data: bytes) -> tuple[str, ...]:
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise InputError("its .txt is not UTF-8 text") from None
    if not lines:
        raise InputError("its .txt holds no caption")
    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if empty is not None:
        raise InputError(f"caption {empty} of {len(lines)} in its .txt is empty")
    return tuple(lines)


def _label(data: bytes, *, classes: int) -> int:
    text = data[:40].decode(errors="backslashreplace").strip()
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(data) > 40:
        raise InputError(f"its .cls holds {quoted(text)}, expected the number of a class")
    if not 0 <= int(text) < classes:
        raise InputError(f"label {text} is out of range: {NAMES} has {classes} classes, so 0 to {classes - 1}")
    return int(text)


def _marks(data: bytes, *, classes: int) -> np.ndarray:
    marks = read_array(data, what="its .npy")
    if marks.shape != (classes,) or marks.dtype.kind not in "biuf":
        raise InputError(f"its .npy holds {marks.shape}, expected ({classes},) numbers: {NAMES} has {classes} classes")
    if not np.isin(marks, (0, 1)).all():
        raise InputError("its .npy holds a number that is neither 0 nor 1")
    return marks.astype(bool)


def _kind(path: Path) -> Kind:
    if not path.is_file():
        return "classification"
    text = read_text(path, limit=_MOST_BYTES).strip().lower()
    if text not in KINDS:
        raise InputError(f"{path}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {quoted(text)}")
    return cast("Kind", text)


def _lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a class's name on each line, by number")
    lines = [line.strip() for line in read_text(path, limit=_MOST_BYTES).splitlines()]
    if "" in lines:
        raise InputError(f"{path}: line {lines.index('') + 1} is empty, so the names after it would move by one")
    return tuple(lines)


def _count(path: Path) -> int:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the number of tars of this split")
    text = read_text(path, limit=_MOST_BYTES).strip()
    if not (text.isdecimal() and text.isascii() and len(text) < 9 and 0 < int(text) <= _MOST_SHARDS):
        raise InputError(f"{path}: expected the number of tars, 1 to {_MOST_SHARDS:,}, got {quoted(text)}")
    return int(text)
