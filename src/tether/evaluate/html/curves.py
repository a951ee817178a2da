"""Curves as plain paths: thinned, scaled to per cent of the plot, with ticks at round numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

MOST_POINTS = 700
"""Points kept of one line; each bin keeps its lowest and highest, so a spike is never thinned away."""
_SMOOTHING = 0.06  # fraction of the run that a running mean spans

Kind = Literal["main", "second", "third", "fourth", "fifth", "sixth", "faint", "limit", "chance"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart.

    Attributes:
        name: as the legend says it.
        kind: how it is drawn: the main line, a second one and more (each of a colour of its own, some dashed), a faint
            one behind it, a dashed limit, or dotted chance.
        points: (step, value), by step; None where there is no value.
    """

    name: str
    kind: Kind
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Marks:
    """Steps worth pointing out, each at the height of a value."""

    name: str
    kind: Literal["clipped", "skipped", "measured"]
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Band:
    """An area behind a line, such as its intervals: (step, low, high), by step."""

    name: str
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis in per cent of the plot (from the left, or from the top) and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A line or a set of marks as an SVG path in a 100 x 100 box."""

    name: str
    kind: str
    path: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """All that the page needs to draw one chart."""

    title: str
    note: str
    drawn: list[Drawn]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    data: dict[str, Any] = field(default_factory=dict)
    summary: str = ""


def chart(
    title: str,
    *,
    lines: Sequence[Line],
    marks: Sequence[Marks] = (),
    bands: Sequence[Band] = (),
    scale: Literal["linear", "log"] = "linear",
    from_zero: bool = False,
    note: str = "",
) -> Chart | None:
    """Lay out one chart; None when no line has two values."""
    values = [value for line in lines for _, value in line.points if _usable(value, scale)]
    steps = [step for line in lines for step, value in line.points if _usable(value, scale)]
    if len(values) < 2 or min(steps) == max(steps):
        return None
    # A limit may be far above everything (a clipper at rest): it must not flatten the line it limits.
    main = [
        value for line in lines if line.kind != "limit" for _, value in line.points if _usable(value, scale)
    ] or values
    edges = [value for band in bands for _, *ends in band.points for value in ends]
    low, high = _range([*main, *edges], [*values, *edges], scale=scale)
    low = 0.0 if from_zero else low
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return 100 * (step - first) / (last - first)

    def y(value: float) -> float:
        if scale == "log":
            place = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        else:
            place = (value - low) / (high - low)
        return 100 * (1 - min(1.0, max(0.0, place)))

    drawn = [Drawn(band.name, "band", _area(band.points, x, y)) for band in bands if len(band.points) > 1]
    drawn += [Drawn(line.name, line.kind, _line_path(thin(line.points), x, y, scale)) for line in lines]
    for some in marks:
        points = [(step, value) for step, value in some.points if first <= step <= last]
        path = "".join(f"M{x(step):.2f} {y(value):.2f}h0" for step, value in points if _usable(value, scale))
        path += "".join(f"M{x(step):.2f} 2h0" for step, value in points if not _usable(value, scale))
        if points:
            drawn.append(Drawn(some.name, some.kind, path, len(points)))
    ticks = _log_ticks(low, high) if scale == "log" else _ticks(low, high)
    final = next(value for line in lines for _, value in reversed(line.points) if _usable(value, scale))
    return Chart(
        title=title,
        note=note,
        drawn=drawn,
        x_ticks=[Tick(x(step), _number(step)) for step in _ticks(first, last) if first <= step <= last],
        y_ticks=[Tick(y(value), _number(value)) for value in ticks if low <= value <= high],
        data={
            "first": first,
            "last": last,
            "lines": [
                {"name": line.name, "points": [[step, value] for step, value in thin(line.points, most=300)]}
                for line in lines
            ],
        },
        summary=f"{title}: from {_number(main[0])} to {_number(final)} over {last - first + 1:.0f} steps, "
        f"lowest {_number(min(main))}, highest {_number(max(main))}.",
    )


def thin(points: Sequence[tuple[float, float | None]], *, most: int = MOST_POINTS) -> list[tuple[float, float | None]]:
    """At most about ``most`` points: of each bin the lowest and the highest, in their order, and the ends."""
    if len(points) <= most:
        return list(points)
    kept: list[tuple[float, float | None]] = []
    bins = most // 2
    for number in range(bins):
        some = points[number * len(points) // bins : (number + 1) * len(points) // bins]
        known = [(value, step) for step, value in some if _usable(value, "linear")]
        if known:
            ends = {(step, value) for value, step in (min(known), max(known))}
            kept += sorted(ends)
        elif some:
            kept.append(some[0])
    return kept if kept[-1][0] == points[-1][0] else [*kept, points[-1]]


def running_mean(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Mean of the steps around each one, a small fraction of the run in all, so it does not lag; gaps are left out."""
    known = [(step, value) for step, value in points if _usable(value, "linear")]
    sums = [0.0, *itertools.accumulate(value for _, value in known)]
    half = max(1, round(_SMOOTHING * len(known) / 2))
    smooth: list[tuple[float, float | None]] = []
    for place, (step, _) in enumerate(known):
        reach = min(half, place, len(known) - 1 - place)  # even to both sides, also at the ends
        smooth.append((step, (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)))
    return smooth


def _usable(value: float | None, scale: str) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and (scale == "linear" or value > 0)


def _range(main: Sequence[float], values: Sequence[float], *, scale: str) -> tuple[float, float]:
    low, high = min(main), max(main)
    reach = [value for value in values if value <= 3 * high] or [high]
    if scale == "log":
        high = max(high, *reach)
        low = min([low, *(value for value in values if value >= low / 3)])  # a limit close below is drawn where it is
        low, high = low / 1.15, high * 1.15
        return low, high if high > low else low * 10
    pad = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return (0.0 if 0 <= low < 0.4 * high else low - pad), high + pad


def _line_path(points: Sequence[tuple[float, float | None]], x, y, scale: str) -> str:
    path, pen_down = [], False
    for step, value in points:
        if value is None or not _usable(value, scale):
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{x(step):.2f} {y(value):.2f}")
        pen_down = True
    return "".join(path)


def _area(points: Sequence[tuple[float, float, float]], x, y) -> str:
    """The closed path around a band, along its upper edge and back along the lower one."""
    around = [(step, high) for step, _, high in points] + [(step, low) for step, low, _ in reversed(points)]
    return "M" + "L".join(f"{x(step):.2f} {y(value):.2f}" for step, value in around) + "Z"


def _ticks(low: float, high: float, *, wanted: int = 5) -> list[float]:
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    return inside if len(inside) >= 2 else _ticks(low, high)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if abs(value) < 0.0001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"
