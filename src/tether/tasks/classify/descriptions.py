"""Sentences that describe each class, from a file or a mapping: as many for a class as there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.atomic_io import parse_json, read_text
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.printable import is_text, quoted
from tether.core.protocols import DualEncoder
from tether.core.yaml_files import parse_yaml
from tether.models.embed import encode_texts
from tether.tasks.classify.prompts import SLOT, classes_of, own_templates

MAX_BYTES = 1 << 26
"""Of a file of descriptions; those of ImageNet's thousand classes have 4 MB."""

Descriptions = Mapping[str, Sequence[str]]
Mean = Literal["raw", "unit"]
"""Whether the mean of a class's unit rows is made one again."""


def descriptions_of(given: str | Path | Descriptions) -> dict[str, tuple[str, ...]]:
    """Class names with their sentences.

    Args:
        given: a mapping, or the path of a ``.json``, ``.yaml`` or ``.yml`` file of one, as CuPL's files are.

    Raises:
        InputError: no such file, or a class without a list of sentences; it names the file and the class.

    Example:
        >>> from tether.tasks.classify.descriptions import descriptions_of
        >>> descriptions_of({"cat": ["A cat has whiskers.", "Cats purr."], "sun": ["The sun is round."]})["sun"]
        ('The sun is round.',)
    """
    where, values = "descriptions", given
    if isinstance(given, (str, Path)):
        where, ending = str(given), Path(given).suffix.lower()
        if ending not in (".json", ".yaml", ".yml"):
            raise InputError(f"descriptions: {where}: expected a .json or .yaml file")
        text = read_text(given, limit=MAX_BYTES)
        values = parse_json(text, where=where, twice="refused") if ending == ".json" else parse_yaml(text, where=where)
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{where}: expected classes with a list of sentences each, got {_kind(values)}")
    found = {}
    for name, sentences in values.items():
        if not isinstance(name, str):
            raise InputError(f"{where}: expected a class's name, got {quoted(name)}")
        if isinstance(sentences, str) or not isinstance(sentences, Sequence) or not sentences:
            raise InputError(f"{where}: class {quoted(name)}: expected a list of sentences, got {_kind(sentences)}")
        for number, sentence in enumerate(sentences, 1):
            if not isinstance(sentence, str) or not is_text(sentence) or not sentence.strip():
                raise InputError(
                    f"{where}: class {quoted(name)}: sentence {number}: expected text, got {quoted(sentence)}"
                )
        found[name] = tuple(sentences)
    classes_of(list(found))
    return {name.strip(): sentences for name, sentences in found.items()}


def sentences_of(
    classes: Sequence[str], *, descriptions: Descriptions | None, templates: Sequence[str] | None, model: object
) -> tuple[tuple[str, ...], ...]:
    """The sentences of each class: its descriptions, or its name in each template.

    Raises:
        InputError: a class without a description, or a description of no class.
    """
    if descriptions is None:
        forms = own_templates(model) if templates is None else templates
        return tuple(tuple(form.replace(SLOT, name) for form in forms) for name in classes)
    check_described(classes, descriptions)
    return tuple(tuple(descriptions[name]) for name in classes)


def check_described(classes: Sequence[str], descriptions: Descriptions, *, where: str = "descriptions") -> None:
    """See that the descriptions are those of the classes.

    Raises:
        InputError: otherwise; it names the class.
    """
    for name in classes:
        if name not in descriptions:
            raise InputError(f"{where}: class {quoted(name)} has none; {closest(name, descriptions)}")
    known = set(classes)
    for name in descriptions:
        if name not in known:
            raise InputError(f"{where}: {quoted(name)} is none of the {len(known)} classes; {closest(name, classes)}")


def described_rows(
    model: DualEncoder, sentences: Sequence[Sequence[str]], *, batch_size: int = 256
) -> tuple[Float[Tensor, "t d"], list[int]]:
    """Points of all sentences in the model's geometry, class after class, and how many each class has."""
    rows = encode_texts(model, [text for some in sentences for text in some], batch_size=batch_size)
    return geometry_of(model).points(rows), [len(some) for some in sentences]


def described_weights(
    model: DualEncoder,
    sentences: Sequence[Sequence[str]],
    *,
    batch_size: int = 256,
    mean: Mean = "unit",
) -> Float[Tensor, "c d"]:
    """A row for each class: its sentences' mean point, normalised unless ``raw`` where only the direction counts."""
    rows, counts = described_rows(model, sentences, batch_size=batch_size)
    means = torch.stack([some.mean(0) for some in rows.split(counts)])
    return means if mean == "raw" else geometry_of(model).points(means)


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {quoted(value)}"
