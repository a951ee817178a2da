"""Data of an adaptation: what kind they are, and the parts to learn from, to choose on and to measure on."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tether.adaptation.recipes import Case, Given, Kind
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder, Source
from tether.data.bad_rows import BadRows
from tether.data.image_file import image_problem
from tether.data.labelled import LABEL, LabelledRows, PickedRows, draw_parts, label_of, read_labels
from tether.data.shuffle import until_broken
from tether.data.sources.split import SplitSource
from tether.models.composed.cached import CachedEncoder
from tether.tasks.classify.prompts import SLOT, own_templates
from tether.tasks.classify.zero_shot import class_weights
from tether.workflows.adaptation.apart import apart, said_of
from tether.workflows.adaptation.readable import digests_read, drawn_readable

TEST_SHARE = 0.25
"""Of the images of each class that are held out to measure on."""
WORDLESS = "an image"
"""What stands beside an image that has no words, where a loader asks for some."""
KINDS = {
    "labels": "images with a class each (a column of classes, or a folder for each)",
    "pairs": "images with captions",
    "texts": "texts without images",
    "images": "images, with or without words",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """Data in their parts.

    Attributes:
        given: what the recipe gets.
        test: the part to measure on; None where nothing is held out.
        said: what they are, in sentences.
        learnt: digests of the images to learn from and to choose settings on, see ``data.sources.split.digest_of``.
    """

    given: Given
    test: Source | None
    said: tuple[str, ...]
    learnt: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for of the data.

    Attributes:
        label: column of the class.
        classes: all names, or None.
        shots: images a class, or None.
        test: a source to measure on, or None.
        templates: prompts of classes, or None for the model's own.
        seed: of the draws.
        strict: stop at a bad row.
        workers: threads that decode.
    """

    label: str | None = None
    classes: tuple[str, ...] | None = None
    shots: int | None = None
    test: Source | None = None
    templates: tuple[str, ...] | None = None
    seed: int = 0
    strict: bool = False
    workers: int = 0


def look_at(source: Source, asked: Asked) -> Case:
    """Read a source once and say what it can be taken for.

    Raises:
        InputError: no row that can be read, rows that nothing can be learnt from, or a column of classes that was
            asked for and is none.
    """
    bad, column = BadRows(source.name, strict=asked.strict), asked.label or LABEL
    found: Counter[str] = Counter()
    labels: Counter[str] = Counter()  # a class whose images cannot be read counts 0
    columns: set[str] = set()
    first_bad = first_without = None
    for row in (row for block in source.blocks() for row in until_broken(source, block, bad=bad)):
        columns.update(map(str, row.meta))
        said, label = any(text.strip() for text in row.texts), label_of(row, column)
        if problem := row.bad or (image_problem(row.image) if isinstance(row.image, Path) else None):
            found["bad"] += 1
            first_bad = first_bad or f"{row.key!r}: {problem.removeprefix(f'{row.key}: ')}"
            if label is not None:
                labels[label] += 0
            continue
        found["rows"] += 1
        found["images"] += row.image is not None
        found["pairs"] += row.image is not None and said
        found["texts"] += row.image is None and said
        if row.image is not None and label is not None:
            labels[label] += 1
        elif row.image is not None:
            first_without = first_without or row.key
    if first_bad and not found["rows"]:
        raise InputError(f"{source.name}: all {found['bad']:,} rows are bad, the first is {first_bad}")
    without = found["images"] - sum(labels.values())
    unlabelled = "" if not found["images"] else _unlabelled(labels, column, columns, without, first_without)
    if asked.label is not None and unlabelled:
        raise InputError(f"--label {column}: {source.name} has {unlabelled}")
    kinds: set[Kind] = set()
    if found["images"] and not unlabelled:
        kinds.add("labels")
    if found["pairs"]:
        kinds.add("pairs")
    if found["images"]:
        kinds.add("images")
    if found["texts"] and not found["images"]:
        kinds.add("texts")
    if not kinds:
        raise InputError(
            f"{source.name}: nothing to learn from in {found['rows']} rows, {found['images']} of them images; expected "
            + ", or ".join(KINDS.values())
        )
    smallest = min(labels, key=lambda name: labels[name], default="")
    least = labels[smallest]
    held = max(1, round(TEST_SHARE * least)) if asked.test is None else 0
    least = min(least - held, asked.shots or least)
    return Case(
        frozenset(kinds),
        found["rows"],
        len(labels) if "labels" in kinds else 0,
        max(0, least),
        smallest=smallest,
        unlabelled=unlabelled,
    )


def _unlabelled(labels: Counter[str], column: str, columns: set[str], without: int, first: str | None) -> str:
    """Why images are not taken to have a class each; empty where they are.

    Args:
        labels: how many images each class has.
        column: of the class.
        columns: all there are.
        without: images without a class.
        first: the key of the first of these.
    """
    if not labels:
        others = f"; {closest(column, columns - {column})}" if columns - {column} else " and no other column"
        return (f"no class in column {column!r}" if column in columns else f"no column {column!r}") + others
    if without:
        return f"no class in column {column!r} of {without:,} images, the first is {first!r}"
    return "" if len(labels) > 1 else f"one class alone in column {column!r}, {next(iter(labels))!r}"


def parts_of(
    source: Source, kind: Kind, asked: Asked, *, model: DualEncoder, validation: bool, on_progress: Any = None
) -> Parts:
    """The data as a recipe of this kind takes them, and a part to measure on.

    Args:
        source: of all rows.
        kind: of data.
        asked: settings.
        model: whose prompts they are.
        validation: whether the recipe chooses settings on a part of its own.
        on_progress: told (images embedded, None).

    Raises:
        InputError: see ``data.labelled``; or too few rows.
    """
    if kind == "labels":
        return _labelled(source, asked, model=model, validation=validation, on_progress=on_progress)
    if asked.shots is not None:
        raise InputError("--shots: a number of images a class goes with labelled images only")
    if kind == "texts":
        return _texts(source, asked, on_progress=on_progress)
    train: Source = _worded(source, asked) if kind == "images" else source
    test, what = asked.test, "images" if kind == "images" else "images with captions"
    if test is None:
        train, test = (
            SplitSource(source=cast(Any, train), part=part, seed=asked.seed) for part in ("train", "held_out")
        )
    chosen = None
    captioned = kind == "pairs"
    reader, bad = CachedEncoder(model), BadRows(source.name, strict=asked.strict)
    if validation:
        inner = cast(Any, train)
        chosen = SplitSource(source=inner, part="held_out", seed=asked.seed + 1)
        train = SplitSource(source=inner, part="train", seed=asked.seed + 1)
    mine, others = (
        set() if one is None else digests_read(one, reader=reader, bad=bad, workers=asked.workers, captioned=captioned)
        for one in (train, chosen)
    )
    said = [f"Learnt from {len(mine):,} {what} of {source.name}.", *_unread(source, bad.count)]
    if asked.test is not None:
        test, out = apart(asked.test, learnt=mine | others)
        said += said_of(asked.test, out=out)
    given = Given(
        kind, train, len(mine), validation=chosen, seed=asked.seed, workers=asked.workers, on_progress=on_progress
    )
    return Parts(given, test, tuple(said), frozenset(mine | others))


def _labelled(source: Source, asked: Asked, *, model: DualEncoder, validation: bool, on_progress: Any) -> Parts:
    rows = read_labels(source, column=asked.label, classes=asked.classes, strict=asked.strict)
    reader = CachedEncoder(model)
    draw = functools.partial(
        draw_parts,
        shots=asked.shots,
        validation=validation,
        test_share=None if asked.test is not None else TEST_SHARE,
        seed=asked.seed,
    )
    rows, drawn = drawn_readable(rows, draw, reader=reader, workers=asked.workers, strict=asked.strict)
    prompts = prompts_of(rows.classes, asked.templates or own_templates(model))
    part = {
        name: rows.part(some, prompts=prompts, name=name)
        for name, some in (("train", drawn.train), ("validation", drawn.validation), ("test", drawn.test))
    }
    test: Source = part["test"]
    said = [f"Learnt from {len(drawn.train):,} images of {len(rows.classes)} classes of {source.name}."]
    said += _remarks(rows)
    if asked.test is not None:
        test, known, remarks = _apart_from(asked, rows=rows, prompts=prompts)
        said += [f"{known:,} images of {asked.test.name} were left out, as {source.name} has them."] * bool(known)
        said += remarks
    said += [
        f"The classes {first!r} and {other!r} differ in case, spaces or underscores alone, and count as two."
        for first, other in _alike(rows.classes)
    ]
    words = words_of(rows.classes)
    text = class_weights(reader, words, templates=asked.templates)
    given = Given(
        "labels",
        part["train"],
        len(drawn.train),
        validation=part["validation"] if validation else None,
        classes=rows.classes,
        prompts=prompts,
        class_text=text,
        seed=asked.seed,
        workers=asked.workers,
        on_progress=on_progress,
    )
    return Parts(given, test, tuple(said), frozenset(rows.digests[row] for row in (*drawn.train, *drawn.validation)))


def _remarks(rows: LabelledRows) -> list[str]:
    """What was left out of labelled rows, in sentences."""
    said = _unread(rows.source, rows.unread)
    if rows.copies:
        said.append(f"{rows.copies:,} images of {rows.source.name} stood there before, byte for byte, and count once.")
    if rows.clashes:
        said.append(
            f"{len(rows.clashes):,} images of {rows.source.name} have two classes, of which the first counts; one of "
            f"them: {rows.clashes[0]}."
        )
    return said


def _unread(source: Source, count: int) -> list[str]:
    """The sentence on rows that could not be read; none where there are none."""
    return [f"{count:,} rows of {source.name} could not be read and were left out."] * bool(count)


def _alike(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Class names that are the same but for case, spaces and underscores, each with the first such one."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault("".join(name.casefold().replace("_", " ").split()), name), name) for name in classes]
    return [(one, other) for one, other in pairs if one != other]


def _apart_from(asked: Asked, *, rows: LabelledRows, prompts: Sequence[Sequence[str]]) -> tuple[Source, int, list[str]]:
    """The source to measure on, without images that the other one has, how many these are, and what to say of it."""
    assert asked.test is not None
    found = read_labels(asked.test, column=asked.label, classes=rows.classes, need="some", strict=asked.strict)
    known = set(rows.digests)
    new = [row for row, digest in enumerate(found.digests) if digest not in known]
    if not new:
        raise InputError(
            f"{asked.test.name}: every image of it is among {rows.source.name}, so nothing can be measured"
        )
    return found.part(new, prompts=prompts, name="test"), len(found.digests) - len(new), _remarks(found)


def _worded(source: Source, asked: Asked) -> PickedRows:
    """Rows with an image, each with words, which a loader asks for."""
    bad = BadRows(source.name, strict=asked.strict)
    picked: dict[tuple[str, int], tuple[tuple[str, ...], Mapping[str, object]] | None] = {}
    for block in source.blocks():
        for number, row in enumerate(until_broken(source, block, bad=bad)):
            if not row.bad and row.image is not None:
                said = any(text.strip() for text in row.texts)
                picked[block.id, number] = None if said else ((WORDLESS,), {})
    return PickedRows(source, picked, name=source.name)


def _texts(source: Source, asked: Asked, *, on_progress: Any) -> Parts:
    """Rows of texts: a tenth is held out, by a hash of the words."""
    bad = BadRows(source.name, strict=asked.strict)
    parts: dict[str, dict[tuple[str, int], None]] = {"train": {}, "test": {}}
    for block in source.blocks():
        for number, row in enumerate(until_broken(source, block, bad=bad)):
            words = " ".join(text.strip() for text in row.texts)
            if row.bad or not words:
                continue
            held = asked.test is None and hash_int(words, seed=asked.seed, salt="held out") % 10 == 0
            parts["test" if held else "train"][block.id, number] = None
    train, test = (PickedRows(source, some, name=f"{source.name} ({name})") for name, some in parts.items())
    if not len(train):
        raise InputError(f"{source.name}: no text to learn from")
    given = Given("texts", train, len(train), seed=asked.seed, workers=asked.workers, on_progress=on_progress)
    held_out = asked.test or (test if len(test) else None)
    return Parts(given, held_out, (f"Learnt from {len(train):,} texts of {source.name}.",))


def words_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Class names as they stand in a sentence: underscores are spaces, unless two names would become one."""
    words = tuple(name.replace("_", " ").strip() or name for name in classes)
    return words if len(set(words)) == len(words) else tuple(classes)


def prompts_of(classes: Sequence[str], templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sentences of each class."""
    return tuple(tuple(one.replace(SLOT, word) for one in templates) for word in words_of(classes))
