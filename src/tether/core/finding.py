"""What one section of a health report says, as plain values: a sentence, its figures, its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tether.core.errors import InputError
from tether.core.shape import MAYBE_NUMBER, NUMBER, check

Level = Literal["good", "note", "alarm", "unknown"]
"""``good``: nothing found; ``note``: worth knowing; ``alarm``: mend before shipping; ``unknown``: it could not tell."""
LEVELS: tuple[Level, ...] = get_args(Level)
Unit = Literal["share", "number", "count"]

_VALUE = {"name": str, "value": NUMBER, "low": MAYBE_NUMBER, "high": MAYBE_NUMBER}
_FINDING = {
    **dict.fromkeys(("sentence", "level", "unsaid", "command"), str),
    "figures": [_VALUE | {"unit": str}],
    "drawings": [{"kind": str, "title": str}],
}
_DRAWINGS: dict[str, dict[str, Any]] = {
    "gallery": {"items": [{"row": (int, None), "text": str, "note": str, "uri": str}]},
    "bars": {"bars": [_VALUE | {"strong": bool}], "unit": str, "mark": MAYBE_NUMBER, "mark_name": str},
    "curve": {"values": [NUMBER], "across": str, "marked": [int]},
    "cloud": {"first": [[NUMBER]], "second": [[NUMBER]], "names": [str]},
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with how far it can be trusted.

    Attributes:
        name: what it is, in words.
        value: the number; a ``share`` is in [0, 1].
        low: lower end of its 95 % interval, or None when it is exact for these rows.
        high: upper end.
        unit: how it is written.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: Unit = "number"


@dataclass(frozen=True, slots=True)
class Item:
    """One image with words, or words alone.

    Attributes:
        row: row of the pairs whose small image is shown, or None.
        text: what stands beside it.
        note: a smaller remark, such as a score.
        uri: an image of its own as a data URI, shown instead of the row's; or empty.
    """

    row: int | None
    text: str
    note: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples under one heading."""

    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart; ``low`` and ``high`` draw its interval, ``strong`` marks it."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar chart.

    Attributes:
        title: its heading.
        bars: first to last, from top to bottom.
        unit: how values are written.
        mark: a value to draw a line at, such as chance, or None.
        mark_name: what that line is.
    """

    title: str
    bars: tuple[Bar, ...]
    unit: Unit = "share"
    mark: float | None = None
    mark_name: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Values in order, drawn as a filled outline, such as one for each dimension.

    Attributes:
        title: its heading.
        values: from left to right, none negative.
        across: what the horizontal axis counts.
        marked: positions to point out.
    """

    title: str
    values: tuple[float, ...]
    across: str
    marked: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of two kinds on a plane.

    Attributes:
        title: its heading.
        first: points of the first kind, coordinates in [0, 100].
        second: points of the second kind.
        names: of both kinds.
    """

    title: str
    first: tuple[tuple[float, float], ...]
    second: tuple[tuple[float, float], ...]
    names: tuple[str, str] = ("images", "texts")


Drawing = Gallery | Bars | Curve | Cloud


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one probe.

    Attributes:
        sentence: what was found, in one plain sentence.
        level: how grave it is.
        figures: the numbers behind it.
        drawings: what to look at.
        unsaid: what this does not tell.
        command: what to type to mend or study it.
    """

    sentence: str
    level: Level
    figures: tuple[Figure, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    unsaid: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse a level that is none."""
        if self.level not in LEVELS:
            raise InputError(f"level: expected one of {', '.join(LEVELS)}, got {self.level!r}")

    def figure(self, name: str) -> Figure:
        """The figure of this name; InputError lists those there are."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise InputError(f"no figure {name!r}; there are: {', '.join(figure.name for figure in self.figures)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        drawings = [{"kind": type(one).__name__.lower(), **asdict(one)} for one in self.drawings]
        return {**asdict(self), "drawings": drawings}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """What ``to_dict`` gave.

        Raises:
            InputError: a key is missing or unknown, or a value is of another kind.
        """
        check(values, _FINDING, where="not a finding")
        try:
            rest = {key: values[key] for key in ("sentence", "level", "unsaid", "command")}
            figures = tuple(Figure(**one) for one in values["figures"])
            return cls(figures=figures, drawings=tuple(map(_drawing, values["drawings"])), **rest)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(f"not a finding: {error!r}") from None


def _drawing(values: Mapping[str, Any]) -> Drawing:
    title = values["title"]
    check(values, _DRAWINGS[values["kind"]], where=f"not a finding: {title}")
    if values["kind"] == "gallery":
        items = tuple(Item(**one) for one in values["items"])
        if outside := [item.uri for item in items if item.uri and not item.uri.startswith("data:")]:
            raise InputError(f"not a finding: {title}: expected images within the page, got {outside[0]!r:.80}")
        return Gallery(title, items)
    if values["kind"] == "bars":
        bars = tuple(Bar(**one) for one in values["bars"])
        return Bars(title, bars, values["unit"], values["mark"], values["mark_name"])
    if values["kind"] == "curve":
        return Curve(title, tuple(values["values"]), values["across"], tuple(values["marked"]))
    first, second = (tuple((x, y) for x, y in values[side]) for side in ("first", "second"))
    return Cloud(title, first, second, (values["names"][0], values["names"][1]))
