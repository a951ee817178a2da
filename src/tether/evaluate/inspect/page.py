"""The page: what was found, first in short and then section by section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether.core.finding import Bars, Curve, Gallery
from tether.evaluate.html import templates
from tether.evaluate.html.sprite import SpriteSheet, sprite
from tether.evaluate.html.text import duration
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import range_of, shown, written

if TYPE_CHECKING:
    from tether.evaluate.inspect.health_report import Report, Section

LEVEL_WORDS = {"alarm": "alarm", "note": "worth knowing", "good": "fine", "unknown": "could not tell"}

_LEAST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A bar in per cent of the track; ``whisker`` is (left, width) of its interval."""

    name: str
    left: float
    width: float
    whisker: tuple[float, float] | None
    value: str
    strong: bool


def render(report: Report, subject: Subject) -> str:
    """The page as one string that loads nothing from elsewhere."""
    rows = sorted({row for one in report.sections for row in _rows(one) if 0 <= row < len(subject.image)})
    images: SpriteSheet | None = sprite(subject.thumbnails(rows).numpy()) if rows else None
    counts = {level: sum(section.level == level for section in report.sections) for level in LEVEL_WORDS}
    return templates.render(
        "inspect.html.j2",
        package="tether.evaluate.inspect",
        report=report,
        subject=subject,
        sprite=images,
        places={row: place for place, row in enumerate(rows)},
        counts=counts,
        level_words=LEVEL_WORDS,
        shown=shown,
        range_of=range_of,
        draw_bars=draw_bars,
        outline=outline,
        marks=marks,
        kind=lambda drawing: type(drawing).__name__,
        spent=duration(sum(section.seconds for section in report.sections)),
        steps=steps,
        has_images=has_images,
    )


def has_images(gallery: Gallery) -> bool:
    """Whether any of its items has an image."""
    return any(item.uri or item.row is not None for item in gallery.items)


def steps(command: str) -> list[str]:
    """What a command's semicolons part; one within quotes parts nothing."""
    return [step.strip() for step in re.findall(r"(?:(?<= )'[^']*'|(?!; ).)+", command)]


def _rows(section: Section) -> list[int]:
    if section.finding is None:
        return []
    return [
        item.row
        for drawing in section.finding.drawings
        if isinstance(drawing, Gallery)
        for item in drawing.items
        if item.row is not None and not item.uri
    ]


def draw_bars(bars: Bars) -> tuple[list[DrawnBar], float | None]:
    """Bars on a common track from the least to the greatest value, and where the mark stands in per cent."""
    ends = [end for bar in bars.bars for end in (bar.value, bar.low, bar.high) if end is not None]
    ends += [0.0] if bars.mark is None else [0.0, bars.mark]
    low, high = min(ends), max(ends)
    if bars.unit == "share":  # a tenth of a per cent must not fill the track
        high = 1.0 if low >= 0 and high > 0.5 else max(high, _LEAST_SHARE)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    drawn = []
    for bar in bars.bars:
        left, right = sorted((at(0.0), at(bar.value)))
        whisker = None if bar.low is None or bar.high is None else (at(bar.low), round(at(bar.high) - at(bar.low), 2))
        drawn.append(
            DrawnBar(bar.name, left, round(right - left, 2), whisker, written(bar.value, bars.unit), bar.strong)
        )
    return drawn, None if bars.mark is None else at(bars.mark)


def outline(curve: Curve) -> str:
    """SVG path of a curve in a box of 100 by 100, closed along the bottom."""
    top = max(curve.values, default=0.0) or 1.0
    step = 100 / max(1, len(curve.values))
    path = ["M0 100"]
    for number, value in enumerate(curve.values):
        height = 100 - 100 * value / top
        path.append(f"L{number * step:.2f} {height:.2f}H{(number + 1) * step:.2f}")
    return "".join([*path, "L100 100Z"])


def marks(curve: Curve) -> list[float]:
    """Where marked positions stand, in per cent."""
    step = 100 / max(1, len(curve.values))
    return [round((place + 0.5) * step, 2) for place in curve.marked]
