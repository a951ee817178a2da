"""Parquet files with images as bytes, as Hugging Face's struct, or as paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from tether.core.errors import InputError
from tether.core.printable import encodable
from tether.core.ranges import checked
from tether.core.types import Block, Row
from tether.data.manifests import shard_files, sizes_of
from tether.data.paths import fingerprint, labels
from tether.data.sources.columns import KEY, Reach, bad_row, choose, choose_captions, choose_image, folder_of, make_row
from tether.data.sources.parquet_file import open_parquet, read_batches

_READ_ROWS = 256


class ParquetSource:
    """Rows of one or many Parquet files; a block is one row group, so its size is known without reading it."""

    @checked
    def __init__(
        self,
        path: str,
        *,
        image: str | None = None,
        caption: tuple[str, ...] | str = (),
        key: str | None = None,
        columns: tuple[str, ...] | None = None,
        root: str | None = None,
        remote_images: bool = False,
    ) -> None:
        """Read the files' footers and settle the columns.

        Args:
            path: a file, a folder, a pattern, numbered shards ``{000..012}``, a manifest, or a URL of one of these.
            image: column of images: bytes, ``{bytes, path}``, or paths beside the file; None guesses; ``none`` has
                none.
            caption: one or several columns of a text or a list of texts; empty guesses one.
            key: column of unique keys; None takes ``key``, ``__key__`` or ``uid``, else file and row number.
            columns: further columns that go into ``meta``; None takes all.
            root: folder that paths are relative to and may not leave; None takes the file's own folder.
            remote_images: whether the table may name URLs of public hosts.

        Raises:
            InputError: no such file, not Parquet, no rows, or a column that is not there.
        """
        self.name = encodable(str(path))
        self._paths, said = shard_files(path, ending=(".parquet", ".pq"))
        self._labels = labels(self._paths)
        self.version = fingerprint(
            self._paths,
            settings=(image, caption, key, columns, *filter(None, (root, remote_images))),
            sizes=sizes_of(said),
        )
        self._root, self._remote = root, remote_images
        self._blocks: list[Block] = []
        self._places: dict[str, tuple[int, int, int]] = {}
        schema: pa.Schema | None = None
        for number, each in enumerate(self._paths):
            with open_parquet(each) as file:
                metadata = file.metadata
                schema = schema or file.schema_arrow
                missing = set(schema.names) - set(file.schema_arrow.names)
            if missing:
                raise InputError(f"{each}: columns {sorted(missing)} of {self._paths[0]} are missing here")
            first = 0
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                block = Block(f"{self._labels[number]}#{group}", rows)
                self._blocks.append(block)
                self._places[block.id] = (number, group, first)
                first += rows
            wanted = said[each].rows if each in said else None
            if wanted is not None and wanted != first:
                raise InputError(f"{each}: holds {first:,} rows, the manifest says {wanted:,}")
        if schema is None or not any(block.rows for block in self._blocks):
            raise InputError(f"{path}: the data set is empty (no rows)")
        known = schema.names
        self._image = choose_image(image, known=known, where=self.name, spec=f"parquet:path={path},")
        self._captions = choose_captions(caption, known=known, where=self.name)
        self._key = choose(key, guesses=KEY, known=known, what="key", where=self.name)
        used = {self._image, self._key, *self._captions}
        for column in columns or ():
            choose(column, guesses=(), known=known, what="meta data", where=self.name)
        self._meta = [name for name in (known if columns is None else columns) if name not in used]
        self._columns = [name for name in known if name in used or name in self._meta]

    def blocks(self) -> Sequence[Block]:
        """One for each row group, in order of files."""
        return self._blocks

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one row group from row ``start`` on.

        Raises:
            InputError: the row group is damaged; rows before the damage were given.
        """
        if block.id not in self._places:
            raise InputError(f"{self.name}: no block {block.id!r}")
        number, group, first = self._places[block.id]
        row = 0
        with open_parquet(self._paths[number]) as file:
            for batch in read_batches(
                file,
                path=self._paths[number],
                group=group,
                columns=self._columns,
                rows=_READ_ROWS,
                dictionaries="decoded",
            ):
                for index in range(max(0, start - row), len(batch)):
                    yield self._row(batch, index, number=number, place=first + row + index)
                row += len(batch)

    def _row(self, batch: pa.RecordBatch, index: int, *, number: int, place: int) -> Row:
        key = f"{self._labels[number]}:{place}"

        def cell(name: str | None) -> Any:
            return None if name is None else batch.column(name)[index].as_py()

        try:
            if self._key is not None:
                key = str(cell(self._key))
            captions = [cell(name) for name in self._captions]
            meta = {name: cell(name) for name in self._meta}
            image = cell(self._image)
        except UnicodeDecodeError as error:
            return bad_row(key, f"a text is not UTF-8: byte {error.start}")
        except Exception as error:  # of a date that does not exist, an unknown time zone...
            return bad_row(key, f"a cell cannot be read: {type(error).__name__}")
        reach = Reach((folder_of(self._paths[number], root=self._root),), remote=self._remote)
        return make_row(key, image=image, captions=captions, meta=meta, reach=reach)
