"""NormBank: how expected a behaviour is in a setting, under constraints on who, with whom and where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.data.sets.norms.read_table import narrow_marks, read_table
from tether.data.sets.norms.table import NormTable, rows_said

LABELS = ("taboo", "normal", "expected")
"""In the order of their numbers, 0 to 2."""
Who = Literal["person", "other", "environment"]
RELATIONS = (
    "is less than or equal to", "is greater than or equal to", "is less than", "is greater than", "is not", "is",
)  # fmt: skip
"""The longest first, so that none is taken for its beginning."""
JUDGED = "crowd workers of NormBank, in one or two countries; several may judge one row in different ways"
_JOIN, _BEHAVIOUR = " [AND] ", " [BEHAVIOR] "
_NUMBERS = {said: label for number, label in enumerate(LABELS) for said in (str(number), f"{number}.0")}
_PART = re.compile(
    rf"(?:\[(?P<who>PERSON|OTHER)\]'s )?(?P<name>[^\[\]']*\S) (?P<relation>{'|'.join(RELATIONS)}) '(?P<value>.*)'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class NormConstraint:
    """One part of a conjunction.

    Attributes:
        who: ``person`` who does it, ``other`` who is there, or the ``environment``.
        name: what of them, such as role, behavior, age bracket, noise.
        relation: one of ``RELATIONS``.
        value: it is compared with; may hold apostrophes.
    """

    who: Who
    name: str
    relation: str
    value: str


def parse_constraints(text: str) -> tuple[NormConstraint, ...]:
    """The parts of a conjunction; full-width marks count as the plain ones. The value ends at a part's last quote.

    Raises:
        InputError: a part that is none.

    Example:
        >>> from tether.data.sets.norms import parse_constraints
        >>> parse_constraints("[PERSON]'s role is not 'the owner's son'")[0].value
        "the owner's son"
    """
    return tuple(_part(part) for part in text.split(_JOIN)) if text.strip() else ()


def format_constraints(constraints: tuple[NormConstraint, ...]) -> str:
    """The text that ``parse_constraints`` read.

    Raises:
        InputError: an unknown kind or relation.
    """
    said = []
    for one in constraints:
        if one.who not in get_args(Who) or one.relation not in RELATIONS:
            raise InputError(f"constraint: expected who of {get_args(Who)} and a known relation, got {one}")
        whose = "" if one.who == "environment" else f"[{one.who.upper()}]'s "
        said.append(f"{whose}{one.name} {one.relation} '{one.value}'")
    return _JOIN.join(said)


def load_normbank(path: str | Path, *, labelled: bool = True, columns: Mapping[str, str] | None = None) -> NormTable:
    """Read a CSV of NormBank's columns: setting, behavior, constraints, and norm or label; others are optional.

    Fields are ``behaviour`` ("setting: behaviour"), ``constraints`` (in words) and the group is setting and
    behaviour. The facet ``constraints`` names the categories of a row's constraints, joined by " + ".
    Rows without a norm can be judged, not learnt from. A column ``split`` is kept.

    Args:
        path: of the file.
        labelled: whether the column of norms must be there; its cells may be empty.
        columns: what the file calls some of the columns, by NormBank's name: ``{"behavior": "what"}``.

    Raises:
        InputError: see ``read_table`` and ``NormTable``; unknown norms and constraints that cannot be read are named
            by their row numbers.
    """
    need = ["setting", "behavior", "constraints", *([("norm", "label")] if labelled else [])]
    also = ["split", *(() if labelled else ("norm", "label"))]
    rows, numbers = read_table(path, need=need, also=also, columns=columns)
    said, kinds, bad, why = [], [], [], ""
    for row, number in zip(rows, numbers, strict=True):
        try:
            constraints = parse_constraints(row["constraints"])
            said.append(" and ".join(map(_in_words, constraints)))
            kinds.append(" + ".join(sorted({_category(one) for one in constraints})))
        except InputError as error:
            bad.append(number)
            why = why or str(error)
    if bad:
        raise InputError(f"{path}: {rows_said(bad)}: {why}")
    settings, behaviours = ([row[name].strip() for row in rows] for name in ("setting", "behavior"))
    for name, column in (("setting", settings), ("behavior", behaviours)):
        if empty := [number for number, text in zip(numbers, column, strict=True) if not text]:
            raise InputError(f"{path}: {name}: no text in {rows_said(empty)}")
    split = tuple(row["split"].strip() for row in rows) if "split" in rows[0] else None
    return NormTable(
        name=str(path),
        fields={
            "behaviour": tuple(f"{s}: {b}" for s, b in zip(settings, behaviours, strict=True)),
            "constraints": tuple(said),
        },
        labels=tuple(_label(row) for row in rows),
        classes=LABELS,
        groups=tuple(s + _BEHAVIOUR + b for s, b in zip(settings, behaviours, strict=True)),
        rows=tuple(numbers),
        judged=JUDGED,
        facets={"setting": tuple(settings), "constraints": tuple(kinds)},
        split=split,
        optional=frozenset({"constraints"}),
    )


def _label(row: dict[str, str]) -> str:
    said = narrow_marks(row.get("norm") or row.get("label") or "").strip().lower()
    return _NUMBERS.get(said, said)


def _part(text: str) -> NormConstraint:
    found = _PART.fullmatch(text.strip()) or _PART.fullmatch(narrow_marks(text.strip()))
    if found is None:
        raise InputError(f"constraint: expected \"[PERSON]'s role is 'V'\" or \"noise is 'V'\", got {quoted(text)}")
    who: Who = "person" if found["who"] == "PERSON" else "other" if found["who"] else "environment"
    return NormConstraint(who, found["name"], found["relation"], found["value"])


def _category(one: NormConstraint) -> str:
    """One of the release's six: roles, attributes and behaviours of the person or the other, and the environment."""
    if one.who == "environment":
        return one.who
    return f"{one.who} {one.name if one.name in ('role', 'behavior') else 'attribute'}"


def _in_words(one: NormConstraint) -> str:
    """As a sentence encoder reads it, without brackets."""
    whose = {"person": "the person's ", "other": "the other's ", "environment": "the "}[one.who]
    return f"{whose}{one.name} {one.relation} {one.value}"
