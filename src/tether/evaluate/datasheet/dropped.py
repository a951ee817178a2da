"""Examples of what each step dropped, and words of what was flagged, out of the lists that a curation leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from tether.core.errors import InputError, reason_of
from tether.core.hash_rng import hash_int
from tether.core.printable import unguarded
from tether.evaluate.datasheet.concepts import word_counts

_FILES = 12
_BLOCK = 1 << 24  # bytes that are read of a list; a caption of a megabyte fits
_LINES = 2_000
_EXAMPLES = 8
_WORDS = 60


@dataclass(frozen=True, slots=True)
class Example:
    """A dropped pair; ``piece`` is where its image is, or None when that is not known."""

    key: str
    text: str | None
    piece: int | None


@dataclass(frozen=True, slots=True)
class Flagged:
    """What one step flagged among the pairs that were kept.

    Attributes:
        step: its name.
        pairs: how many pairs.
        labels: counts of each label.
        words: words of flagged captions and how many of those hold each, most frequent first.
    """

    step: str
    pairs: int
    labels: dict[str, int]
    words: list[tuple[str, int]]


def examples(out: Path, manifest: dict[str, Any]) -> dict[str, list[Example]]:
    """A few dropped pairs for each step that dropped some."""
    found: dict[str, list[Example]] = {}
    for path in _spread(sorted((out / "dropped").glob("part-*.csv"))):
        table = _head(path, raw="raw_csv" in manifest)
        number = path.stem.removeprefix("part-")
        piece = int(number) if number.isdecimal() and len(number) < 10 else None
        for key, text, step in zip(*(table.column(name).to_pylist() for name in ("key", "text", "step")), strict=True):
            found.setdefault(step, []).append(Example(key, text, piece))
    for step in manifest["by_step"]:
        if step["kind"] == "curator" and not found.get(step["name"]):
            shown = [each for what in step["examples"].values() for each in what]
            found[step["name"]] = [Example(each["key"], each["text"], None) for each in shown]
    return {name: sorted(each, key=lambda one: (hash_int(one.key, salt="datasheet"), one.key))[:_EXAMPLES]
            for name, each in found.items()}  # fmt: skip


def flags(out: Path, manifest: dict[str, Any]) -> list[Flagged]:
    """Counts and words of what was flagged, step by step."""
    words: dict[str, Counter[str]] = {}
    for path in _spread(sorted((out / "flagged").glob("part-*.csv"))):
        table = _head(path, raw="raw_csv" in manifest)
        for step in table.column("step").unique().to_pylist():
            mine = table.filter(pc.equal(table.column("step"), step)).column("text").combine_chunks()
            words.setdefault(step, Counter()).update(word_counts(mine.drop_null()))
    return [
        Flagged(step["name"], sum(step["labels"].values()), step["labels"],
                sorted(words.get(step["name"], Counter()).items(), key=lambda one: (-one[1], one[0]))[:_WORDS])
        for step in manifest["by_step"]
        if step["kind"] == "flag"
    ]  # fmt: skip


def _spread(paths: list[Path]) -> list[Path]:
    count = min(len(paths), _FILES)
    return [paths[index * len(paths) // count] for index in range(count)]


def _head(path: Path, *, raw: bool) -> pa.Table:
    """Key, text and step in the first lines of a list: their images lie at the beginning of their piece."""
    try:
        table = _first_lines(path)
        cells = {name: table.column(name).to_pylist() for name in ("key", "text", "step")}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a list of pairs: {reason_of(error):.200}") from None
    texts = {name: [cell and (cell if raw else unguarded(cell)) for cell in column] for name, column in cells.items()}
    texts |= {name: [cell or "" for cell in texts[name]] for name in ("key", "step")}
    return pa.table({name: pa.array(column, pa.string()) for name, column in texts.items()})


def _first_lines(path: Path) -> pa.Table:
    with csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=_BLOCK),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(("key", "text", "step", "reason", "label"), pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    ) as opened:
        return pa.Table.from_batches([opened.read_next_batch()]).slice(0, _LINES)
