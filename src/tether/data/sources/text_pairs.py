"""Tables of text pairs: a query, what answers it, and hard negatives, as ``tether mine`` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tether.core.atomic_io import parse_json
from tether.core.errors import InputError
from tether.core.printable import encodable
from tether.core.ranges import checked
from tether.core.types import Row
from tether.data.blocks import IndexedSource
from tether.data.paths import files, fingerprint, labels
from tether.data.sources.caption_table import CaptionTable
from tether.data.sources.columns import NONE, choose, listed, texts_of
from tether.data.sources.parquet import ParquetSource
from tether.data.sources.parquet_file import open_parquet
from tether.data.text_pairs import NEGATIVES, POSITIVES

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet", ".pq")
_QUERY = ("query", "anchor", "question", "sentence1", "text1", "text", "caption")
_POSITIVE = ("positive", "pos", "answer", "passage", "document", "sentence2", "text2", "paraphrase")
_JSON_LIST = re.compile(r'\s*\[\s*["\]]')
_NEGATIVES = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?$", re.IGNORECASE)


@dataclass
class _Group:
    """Pairs that mean the same."""

    queries: list[str] = field(default_factory=list)
    positives: list[str] = field(default_factory=list)
    negatives: list[tuple[str, ...]] = field(default_factory=list)


class TextPairsSource(IndexedSource):
    """Rows of text alone, whose texts are queries: for ``contents: {images: false, pairs: {negatives: K}}``.

    A line is a query, its positive, and equally many hard negatives in every line, or in none. Lines of one group mean
    the same: they become one row, of which one pair is used at every visit, so that none is a negative of the others.
    The table is held in memory.

    Attributes:
        negatives: hard negatives of each query.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from tether.data.sources.text_pairs import TextPairsSource
        >>> line = {"query": "a dog", "positive": "a puppy", "negatives": ["a cat", "a dog house"]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = Path(folder, "pairs.jsonl").write_text(json.dumps(line))
        ...     found = TextPairsSource(f"{folder}/pairs.jsonl")
        >>> found.negatives, found.row(0).texts, found.row(0).meta["positive_texts"]
        (2, ('a dog',), ('a puppy',))
    """

    block_rows = 4096

    @checked
    def __init__(
        self,
        path: str,
        *,
        query: str | None = None,
        positive: str | None = None,
        negatives: tuple[str, ...] | str = (),
        group: str | None = None,
    ) -> None:
        """Read the table.

        Args:
            path: a ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file, a folder or a pattern of them, or a URL.
            query: column of the queries; None guesses (``query``, ``anchor``, ``question``, ``sentence1``, ...).
            positive: column of what answers them; None guesses (``positive``, ``answer``, ``sentence2``, ...).
            negatives: columns of hard negatives, each with a text, a list of texts or, in a CSV, a JSON list; empty
                takes those called ``negatives``, ``negative_1`` and so on, where there are any; ``none`` takes none.
            group: column that is equal where pairs mean the same; None takes every line for itself.

        Raises:
            InputError: no such file or column, no lines, an empty text, a query without its hard negatives, or with
                another number of them than the lines before; it names the file and the line.
        """
        self.name = encodable(str(path))
        paths = files(path, ending=ENDINGS)
        self.version = fingerprint(paths, settings=("text_pairs", query, positive, negatives, group))
        self._wanted = query, positive, (negatives,) if isinstance(negatives, str) and negatives else negatives, group
        self._first = ""
        self.negatives = 0
        groups: dict[str, _Group] = {}
        for each, label in zip(paths, labels(paths), strict=True):
            for place, key, pair in self._pairs(each, label):
                self._check_count(len(pair[2]), place=place)
                found = groups.setdefault(key, _Group())
                found.queries.append(pair[0])
                found.positives.append(pair[1])
                found.negatives.append(pair[2])
        if not groups:
            raise InputError(f"{self.name}: the data set is empty (no lines)")
        self._groups = list(groups.items())

    def __len__(self) -> int:
        """How many rows: groups, or lines."""
        return len(self._groups)

    def row(self, index: int) -> Row:
        """One row."""
        key, found = self._groups[index]
        meta: dict[str, object] = {POSITIVES: tuple(found.positives)}
        if self.negatives:
            meta[NEGATIVES] = tuple(found.negatives)
        return Row(key, None, tuple(found.queries), meta)

    def _check_count(self, count: int, *, place: str) -> None:
        if not self._first:
            self._first, self.negatives = place, count
        if count != self.negatives:
            raise InputError(f"{place}: expected {self.negatives} hard negatives, as in {self._first}, got {count}")

    def _pairs(self, path: str, label: str) -> Iterator[tuple[str, str, tuple[str, str, tuple[str, ...]]]]:
        """Of each line its place in words, its group, and query, positive and negatives."""
        is_parquet = path.lower().endswith((".parquet", ".pq"))
        lists = not path.lower().endswith((".csv", ".tsv"))
        known, lines = (_parquet if is_parquet else _text_table)(path)
        query, positive, wrong, group = self._columns(known, where=path)
        for number, cells in lines:
            place = f"{path}: {'row' if is_parquet else 'line'} {number}"
            if isinstance(cells, str):
                raise InputError(f"{place}: {cells}")
            texts = [text for name in wrong for text in _list(cells.get(name), where=f"{place}: {name}", lists=lists)]
            key = f"{label}:{number}" if group is None else _text(cells.get(group), where=f"{place}: {group}")
            asked, answer = (_text(cells.get(name), where=f"{place}: {name}") for name in (query, positive))
            yield place, key, (asked, answer, tuple(texts))

    def _columns(self, known: Sequence[str], *, where: str) -> tuple[str, str, Sequence[str], str | None]:
        query, positive, wrong, group = self._wanted
        pair = []
        for name, guesses, what in ((query, _QUERY, "query"), (positive, _POSITIVE, "positive")):
            found = choose(name, guesses=guesses, known=known, what=what, where=where)
            if found is None:
                raise InputError(f"{where}: no column of the {what} found; say {what}=NAME; known: {listed(known)}")
            pair.append(found)
        for name in (*wrong, *([group] if group else [])):
            choose(name, guesses=(), known=known, what="text pairs", where=where)
        negatives = [name for name in (wrong or filter(_NEGATIVES.match, known)) if name not in (*pair, NONE)]
        return pair[0], pair[1], negatives, group


Lines = Iterator[tuple[int, Mapping[str, object] | str]]
"""Numbers of lines, and their columns or what is wrong with them."""


def _text_table(path: str) -> tuple[Sequence[str], Lines]:
    table = CaptionTable(path, name=path)
    return table.columns, table.lines()


def _parquet(path: str) -> tuple[Sequence[str], Lines]:
    with open_parquet(path) as file:
        known = file.schema_arrow.names
    source = ParquetSource(path, image=NONE, caption=NONE, key=NONE)
    rows = (row for block in source.blocks() for row in source.read(block))
    return known, ((number, row.bad or row.meta) for number, row in enumerate(rows))


def _text(cell: object, *, where: str) -> str:
    try:
        found = texts_of(cell)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if len(found) != 1 or not found[0].strip():
        raise InputError(f"{where}: expected a text, got {'an empty one' if len(found) == 1 else repr(cell)[:80]}")
    return found[0]


def _list(cell: object, *, where: str, lists: bool) -> list[str]:
    """The texts of a cell of hard negatives, which may be a JSON list of strings where a table has no ``lists``."""
    if isinstance(cell, str) and not lists and _JSON_LIST.match(cell):
        cell = parse_json(cell, where=where)
    if cell is None or cell == "":
        return []
    cells = cell if isinstance(cell, (list, tuple)) else [cell]
    return [_text(each, where=where) for each in cells]
