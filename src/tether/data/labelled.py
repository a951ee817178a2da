"""Images with one class each: read from a source, checked, and drawn from, class by class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.printable import is_line, quoted
from tether.core.protocols import Source
from tether.core.ranges import Inner, checked
from tether.core.types import Block, Row
from tether.data.bad_rows import BadRows
from tether.data.image_file import image_problem
from tether.data.shuffle import acceptor, until_broken
from tether.data.sources.split import digest_of

LABEL = "label"
MOST_TEST = 5000
"""Images held out to measure on, at most."""
_SHOWN = 3


class PickedRows:
    """Some rows of a source, in its order; a ``core.protocols.Source``.

    Attributes:
        name: of the source and its part.
        version: changes with the source's, and with the rows.
    """

    def __init__(
        self,
        source: Source,
        picked: Mapping[tuple[str, int], tuple[tuple[str, ...], Mapping[str, object]] | None],
        *,
        name: str,
    ) -> None:
        """Take the rows.

        Args:
            source: they are of.
            picked: by block and number; with texts that stand in the place of a row's own and columns that are added,
                or None for the row as it is.
            name: of this part.
        """
        self._source, self._picked = source, dict(picked)
        self._counts = Counter(block for block, _ in self._picked)
        self.name = name
        self.version = f"{hash_int(f'{source.version} {sorted(self._picked.items(), key=lambda one: one[0])}'):016x}"

    def __len__(self) -> int:
        """How many rows."""
        return len(self._picked)

    def blocks(self) -> Sequence[Block]:
        """The source's own, those without a row left out."""
        return [Block(one.id, self._counts[one.id]) for one in self._source.blocks() if self._counts[one.id]]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one stretch, from its row ``start`` on."""
        for number, row in enumerate(self._source.read(Block(block.id))):
            if (block.id, number) not in self._picked:
                continue
            if start > 0:
                start -= 1
                continue
            changed = self._picked[block.id, number]
            yield row if changed is None else replace(row, texts=changed[0], meta={**row.meta, **changed[1]})


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Which rows of a source have which class; images that are equal byte for byte count once.

    Attributes:
        source: of the rows.
        classes: their names: sorted, numbers by value.
        places: block and number of each row.
        labels: number of its class.
        digests: of its image.
        copies: rows left out, as their image stood before.
        clashes: one sentence's part for each row left out as its image stood before under another class.
        unread: rows left out as they are bad, or as their image cannot be read.
    """

    source: Source
    classes: tuple[str, ...]
    places: tuple[tuple[str, int], ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]
    copies: int = 0
    clashes: tuple[str, ...] = ()
    unread: int = 0

    def counts(self) -> list[int]:
        """Rows of each class."""
        found = Counter(self.labels)
        return [found[number] for number in range(len(self.classes))]

    def without(self, digests: Collection[str]) -> LabelledRows:
        """The rows but those whose image turned out not to be readable.

        Args:
            digests: of these images.

        Raises:
            InputError: a class has none left.
        """
        left = [row for row, digest in enumerate(self.digests) if digest not in digests]
        places, labels, known = (tuple(all_[row] for row in left) for all_ in (self.places, self.labels, self.digests))
        unread = self.unread + len(self.digests) - len(left)
        found = replace(self, places=places, labels=labels, digests=known, unread=unread)
        for name, before, after in zip(self.classes, self.counts(), found.counts(), strict=True):
            if before and not after:
                raise InputError(f"{self.source.name}: class {name!r} has no image that can be read")
        return found

    def part(self, rows: Collection[int], *, prompts: Sequence[Sequence[str]], name: str) -> PickedRows:
        """Some rows as a source, with the sentences of their class as texts and its number as ``label``."""
        picked = {self.places[row]: (tuple(prompts[self.labels[row]]), {LABEL: self.labels[row]}) for row in rows}
        return PickedRows(self.source, picked, name=f"{self.source.name} ({name})")


def label_of(row: Row, column: str) -> str | None:
    """The class of a row as text, None where it has none; NaN is none."""
    value = row.meta.get(column)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)


def read_labels(
    source: Source,
    *,
    column: str | None = None,
    classes: Sequence[str] | None = None,
    need: Literal["every class", "some"] = "every class",
    strict: bool = False,
) -> LabelledRows:
    """Read a source once and take note of the class of every good row.

    Args:
        source: of images.
        column: with the class; None takes ``label``, which for a folder of images is the name of the folder inside.
        classes: all names there may be; None takes those that occur.
        need: whether every class must have an image.
        strict: stop at the first bad row instead of skipping it, and at an image that has two classes.

    Raises:
        InputError: a row without a class, one that is none of ``classes``, fewer than two classes, or one without an
            image that can be read.
    """
    name = column or LABEL
    bad = BadRows(source.name, strict=strict)
    accept = acceptor(bad, need_text=False)
    places, labels, digests, without = [], [], [], []
    seen: dict[str, tuple[str, str]] = {}  # key and class of the first row of an image
    lost: dict[str, str] = {}  # what is wrong with the first row left out of a class
    clashes: list[str] = []
    copies = 0
    for block in source.blocks():
        for number, row in enumerate(until_broken(source, block, bad=bad)):
            if not accept(row) or row.image is None:
                continue
            bad.tried(1)
            label, digest = label_of(row, name), digest_of(row.image)
            if not digest:
                reason = image_problem(row.image) if isinstance(row.image, Path) else None
                bad.add(row.key, reason or "its image cannot be read")
                lost.setdefault(label or "", f"has no image that can be read: {bad.latest}")
            elif label is None:
                without.append(row)
            elif classes is not None and label not in classes:
                raise InputError(
                    f"{source.name}: row {row.key!r}: {label!r} is none of the {len(classes)} classes "
                    f"({', '.join(list(classes)[:_SHOWN])}, ...)"
                )
            elif digest in seen:
                key, other = seen[digest]
                if label == other:
                    copies += 1
                    continue
                clashes.append(f"{row.key!r} ({label!r}) equals {key!r} ({other!r})")
                lost.setdefault(label, f"has no image of its own: {clashes[-1]}")
                if strict:
                    raise InputError(f"{source.name}: one image with two classes: {clashes[0]}")
            else:
                seen[digest] = row.key, label
                places.append((block.id, number))
                labels.append(label)
                digests.append(digest)
    if without:
        raise InputError(
            f"{source.name}: expected a class in column {name!r} of every row, it is missing in {len(without)} rows, "
            f"the first is {without[0].key!r}; its columns: {', '.join(sorted(map(str, without[0].meta))) or 'none'}"
        )
    if not labels:
        raise InputError(f"{source.name}: {bad.nothing_good()}")
    if need == "every class" and (gone := [one for one in lost if one and one not in labels]):
        raise InputError(f"{source.name}: class {gone[0]!r} {lost[gone[0]]}")
    names = tuple(classes) if classes is not None else sorted_names(labels)
    if odd := [one for one in names if not is_line(one)]:
        raise InputError(f"{source.name}: class {quoted(odd[0])}: expected text without control characters")
    number = {name: place for place, name in enumerate(names)}
    numbers = tuple(number[one] for one in labels)
    found = LabelledRows(
        source, names, tuple(places), numbers, tuple(digests), copies, clashes=tuple(clashes), unread=bad.count
    )
    if len(names) < 2:
        raise InputError(f"{source.name}: all rows have the class {names[0]!r}; expected at least two classes")
    if need == "every class" and (
        empty := [name for name, count in zip(names, found.counts(), strict=True) if not count]
    ):
        raise InputError(f"{source.name}: class {empty[0]!r} has no image")
    return found


def sorted_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels, sorted; numbers by value."""

    def place(name: str) -> tuple[bool, int, str, str]:
        if not (name.isascii() and name.isdigit()):
            return True, 0, "", name
        digits = name.lstrip("0")  # compared as text, since int() refuses very long ones
        return False, len(digits), digits, name

    return tuple(sorted(set(labels), key=place))


@dataclass(frozen=True, slots=True)
class DrawnParts:
    """Row numbers of three parts that share no image."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@checked
def draw_parts(
    rows: LabelledRows,
    *,
    shots: int | None,
    validation: bool,
    test_share: Inner | None,
    seed: int = 0,
) -> DrawnParts:
    """Draw a part to measure on, one to choose settings on, and one to learn from, class by class.

    Which images are drawn depends on their bytes and the seed alone. The validation part has as many images a class as
    there are shots, at most four (arXiv 2109.01134, section 4.1); without ``shots`` a tenth of what is not held out.

    Args:
        rows: of which.
        shots: images a class to learn from; None takes all that are left.
        validation: whether there is such a part.
        test_share: of each class that is held out, at least one image; None holds nothing out.
        seed: of the draws.

    Raises:
        InputError: a class with fewer images than that needs; it says how many there are.
    """
    if shots is not None and shots < 1:
        raise InputError(f"shots: expected at least 1, got {shots}")
    order = sorted(range(len(rows.labels)), key=lambda row: hash_int(rows.digests[row], seed=seed, salt="shots"))
    members: list[list[int]] = [[] for _ in rows.classes]
    for row in order:
        members[rows.labels[row]].append(row)
    share = 0.0 if test_share is None else min(test_share, MOST_TEST / len(order))
    train, chosen, test = [], [], []
    for name, mine in zip(rows.classes, members, strict=True):
        held = 0 if test_share is None else max(1, round(share * len(mine)))
        kept = 0 if not validation else min(shots, 4) if shots is not None else max(1, round(0.1 * (len(mine) - held)))
        wanted = held + kept + (1 if shots is None else shots)
        if len(mine) < wanted:
            parts = [f"{shots or 1} to learn from", *([f"{kept} to choose settings on"] if kept else [])]
            parts += [f"{held} to measure on"] if held else []
            raise InputError(
                f"{rows.source.name}: class {name!r} has {len(mine)} different images; expected at least {wanted}: "
                f"{', '.join(parts)}"
                + ("; --test DATA brings images to measure on" if held else "")
                + (f"; {rows.unread} rows of the data could not be read" if rows.unread else "")
            )
        test += mine[:held]
        chosen += mine[held : held + kept]
        train += mine[held + kept :] if shots is None else mine[held + kept : wanted]
    return DrawnParts(tuple(sorted(train)), tuple(sorted(chosen)), tuple(sorted(test)))
