"""Hugging Face data sets: saved on disk, or from the hub."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tether.core.component import closest
from tether.core.errors import InputError, MissingExtraError, reason_of
from tether.core.ranges import checked
from tether.core.types import Block, Row
from tether.data.blocks import cut
from tether.data.paths import anchor
from tether.data.sources.columns import KEY, Reach, choose, choose_captions, choose_image, folder_of, make_row

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


_BLOCK_ROWS = 1024


class HuggingFaceSource:
    """Rows of a data set that ``datasets`` reads; class labels become their names."""

    @checked
    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
        streaming: bool = False,
        data_files: tuple[str, ...] | str = (),
        image: str | None = None,
        caption: tuple[str, ...] | str = (),
        key: str | None = None,
        root: str | None = None,
        remote_images: bool = False,
    ) -> None:
        """Open the data set and settle the columns.

        Args:
            path: a folder that ``save_to_disk`` wrote, or a hub id ``owner/name``.
            split: which split; a data set saved without splits is taken whole.
            config: the data set's configuration, if it has several.
            revision: branch, tag or commit on the hub.
            streaming: read from the hub on the way instead of downloading first.
            data_files: files for a generic builder such as ``parquet`` or ``webdataset``.
            image: column of images; None takes the first of type ``Image``, else a usual name.
            caption: columns of captions; empty guesses one.
            key: column of unique keys; None takes ``key``, ``__key__`` or ``uid``, else the row's number.
            root: folder that the paths of images may not leave; None takes the data set's own folders.
            remote_images: whether rows may name URLs of public hosts.

        Raises:
            InputError: it cannot be opened, has no such split or column, or no rows.
            MissingExtraError: the library datasets is not installed.
        """
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "datasets", extra="hf") from error

        self.name = f"hf:{path}"
        try:
            if Path(path).is_dir() and not data_files and _is_saved(Path(path)):
                for file in sorted(Path(path).rglob("*.arrow")):
                    check_arrow(file)
                data = datasets.load_from_disk(path)
            else:
                data = datasets.load_dataset(
                    path, config, split=split, revision=revision, streaming=streaming, data_files=data_files or None
                )
        except InputError:
            raise
        except Exception as error:  # the library and its network stack raise many kinds
            raise InputError(f"{self.name}: cannot open it: {error}") from error
        if isinstance(data, Mapping):
            if split not in data and len(data) > 1:
                raise InputError(f"{self.name}: no split {split!r}; {closest(split, map(str, data))}")
            data = data[split] if split in data else next(iter(data.values()))
        features = data.features or {}
        known = list(features) or list(next(iter(data), {}))
        images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
        self._image = (
            images[0]
            if image is None and images
            else choose_image(image, known=known, where=self.name, spec=f"hf:{path}:")
        )
        self._captions = choose_captions(caption, known=known, where=self.name)
        self._key = choose(key, guesses=KEY, known=known, what="key", where=self.name)
        self._names = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        opened = data
        for name in images:
            opened = opened.cast_column(name, datasets.Image(decode=False))
        self._table: Dataset | None = opened if isinstance(opened, datasets.Dataset) else None
        self._stream: IterableDataset | None = None if isinstance(opened, datasets.Dataset) else opened
        if (self._table is not None and len(self._table) == 0) or not known:
            raise InputError(f"{self.name}: the data set is empty (no rows)")
        self._reach = Reach(
            _folders(path, data_files) if root is None else (folder_of(path, root=root),), remote=remote_images
        )
        identity = (_state(data), split, self._image, self._captions, self._key)
        self.version = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()

    def blocks(self) -> Sequence[Block]:
        """Stretches of 1,024 rows; when streaming, the shards."""
        if self._table is None:
            return [Block(f"shard {number:05d}") for number in range(self._shards)]
        return cut(len(self._table), length=_BLOCK_ROWS)

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one stretch or shard from row ``start`` on.

        Raises:
            InputError: reading failed (the network, a damaged shard).
        """
        if block not in self.blocks():
            raise InputError(f"{self.name}: no block {block.id!r}")
        row = start
        try:
            if self._stream is not None:
                shard = self._stream.shard(self._shards, int(block.id.split()[1]))
                for values in shard.skip(start):
                    yield self._row(values, fallback=f"{block.id}:{row}")
                    row += 1
            elif self._table is not None:
                first = int(block.id)
                self._check(first, block.rows or 0)
                for at in range(first + start, first + (block.rows or 0)):
                    yield self._row(self._table[at], fallback=f"{at}")
                    row += 1
        except (OSError, ValueError, RuntimeError, KeyError) as error:  # KeyError: a column that the files do not have
            raise InputError(f"{self.name}: block {block.id} breaks after {row} rows: {error}") from error

    def _check(self, first: int, count: int) -> None:
        """See that the offsets of some rows lie within their buffers: Arrow follows them without looking.

        Raises:
            ValueError: they do not.
        """
        assert self._table is not None
        table = self._table.data
        rows = table if self._table._indices is not None else table.fast_slice(first, count)
        rows.validate(full=True)

    @property
    def _shards(self) -> int:
        return 1 if self._stream is None else max(1, self._stream.num_shards)

    def _labelled(self, name: str, value: Any) -> Any:
        """A class label's name; anything else as it is."""
        names = self._names.get(name, ())
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    def _row(self, values: Any, *, fallback: str) -> Row:
        named = {name: self._labelled(name, value) for name, value in values.items()}
        used = {self._image, self._key, *self._captions}
        return make_row(
            fallback if self._key is None else str(named[self._key]),
            image=named[self._image] if self._image else None,
            captions=[named[name] for name in self._captions],
            meta={name: value for name, value in named.items() if name not in used},
            reach=self._reach,
        )


def _folders(path: str, data_files: tuple[str, ...] | str) -> tuple[str, ...]:
    """Where the library may have put a data set's images: beside its files, in its repository, in the caches."""
    from datasets import config
    from huggingface_hub import constants

    caches = (str(config.HF_DATASETS_CACHE), str(constants.HF_HUB_CACHE))
    if "/" in path and not Path(path).is_dir():
        return (f"hf://datasets/{path}", *caches)
    named = [data_files] if isinstance(data_files, str) else data_files
    folders = [anchor(name).rpartition("/")[0] for name in named if name]
    return (*([path] if Path(path).is_dir() else []), *folders, *caches)


def _is_saved(folder: Path) -> bool:
    # A link to nothing counts: as a data set of the hub, the folder's README would say what to download.
    return any(os.path.lexists(folder / name) for name in ("state.json", "dataset_dict.json"))


def _state(data: Any) -> str:
    """What names this content: the library's fingerprint on disk, the builder's description when streaming."""
    fingerprint = getattr(data, "_fingerprint", None)  # only map-style data sets carry one, and it has no public name
    info = data.info
    return str(fingerprint or (info.builder_name, info.config_name, str(info.version), info.download_size))


_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # MessageHeader of Arrow's Message.fbs
_HEADER_TYPE, _HEADER = 1, 2  # fields of Message
_DATA, _COMPRESSION = 1, 3  # of DictionaryBatch, of RecordBatch


def check_arrow(file: Path) -> None:
    """Refuse an Arrow stream with compressed batches; ``datasets`` writes none."""
    if not file.stat().st_size:  # Arrow would wait in it for ever
        raise InputError(f"{file}: empty, not an Arrow stream")
    try:
        with pa.memory_map(str(file)) as opened:
            packed = any(
                _is_compressed(bytes(message.metadata)) for message in pa.ipc.MessageReader.open_stream(opened)
            )
    except Exception as error:  # Arrow raises many kinds for a damaged file, and struct one of its own
        raise InputError(f"{file}: not an Arrow stream that can be read: {reason_of(error)[:200]}") from error
    if packed:
        raise InputError(f"{file}: its batches are compressed; save the data set again with datasets' save_to_disk")


def _is_compressed(message: bytes) -> bool:
    """Whether the flatbuffer of a message describes a batch with compressed buffers."""
    root = _number("<I", message, 0)
    place, header = _field(message, root, _HEADER_TYPE), _field(message, root, _HEADER)
    kind = 0 if place is None else message[place]
    if header is None or kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
        return False
    batch = header + _number("<I", message, header)
    if kind == _DICTIONARY_BATCH:
        data = _field(message, batch, _DATA)
        if data is None:
            return False
        batch = data + _number("<I", message, data)
    return _field(message, batch, _COMPRESSION) is not None


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table stands; None where it was left out."""
    entries = table - _number("<i", message, table)
    at = 4 + 2 * number
    offset = _number("<H", message, entries + at) if at < _number("<H", message, entries) else 0
    return table + offset if offset else None


def _number(form: str, message: bytes, at: int) -> int:
    (found,) = struct.unpack_from(form, message, at)
    return found
