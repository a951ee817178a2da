"""The curves of one model as a picture for the guide: a plain SVG file with everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tether.evaluate.html.curves import Chart
from tether.papers.stability.charts import Pair

WIDTH, HEIGHT, LEFT, TOP = 360, 130, 46, 66
COLUMN, ROW = WIDTH + LEFT + 24, HEIGHT + TOP + 34
COLOURS = {"main": "#0f6e6e", "second": "#8a4fa8", "limit": "#b75a00", "clipped": "#b75a00", "skipped": "#b3261e"}
PENS = {
    "main": 'stroke-width="1.6"',
    "second": 'stroke-width="1.6"',
    "limit": 'stroke-width="1.5" stroke-dasharray="5 4"',
    "clipped": 'stroke-width="3"',
    "skipped": 'stroke-width="7"',
}
_LETTER = 6.2  # width of a letter of the legend, in pixels


def figure(pairs: Sequence[Pair]) -> str:
    """One row for each fault: the loss on the left, the gradient norm on the right.

    Args:
        pairs: of one model.
    """
    width, height = 2 * COLUMN + 10, len(pairs) * ROW + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#5b6270">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, pair in enumerate(pairs):
        top = number * ROW + TOP
        parts.append(
            f'<text x="{LEFT}" y="{top - 46}" font-size="13" font-weight="600" fill="#1d2129">{escape(pair.fault)}'
            f'<tspan font-weight="400" fill="#5b6270">  {escape(pair.says)}</tspan></text>'
        )
        parts += _plot(pair.loss, LEFT, top) + _plot(pair.norm, LEFT + COLUMN, top)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _plot(chart: Chart, left: float, top: float) -> list[str]:
    parts = [f'<g transform="translate({left} {top})">']
    parts.append(f'<text y="-25" fill="#1d2129">{escape(chart.title)}</text>')
    x = 0.0
    for line in chart.drawn:
        if line.path:
            parts.append(f'<path d="M{x:.0f} -12h16" stroke="{COLOURS[line.kind]}" {PENS[line.kind]}/>')
            parts.append(f'<text x="{x + 20:.0f}" y="-8" fill="{COLOURS[line.kind]}">{escape(line.name)}</text>')
            x += _LETTER * len(line.name) + 34
    for tick in chart.y_ticks:
        y = tick.at * HEIGHT / 100
        parts.append(f'<path d="M0 {y:.1f}H{WIDTH}" stroke="#e2ded5"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{escape(tick.label)}</text>')
    for tick in chart.x_ticks:
        parts.append(
            f'<text x="{tick.at * WIDTH / 100:.1f}" y="{HEIGHT + 16}" text-anchor="middle">{escape(tick.label)}</text>'
        )
    parts.append(f'<g transform="scale({WIDTH / 100} {HEIGHT / 100})" fill="none" stroke-linecap="round">')
    for line in chart.drawn:
        if line.path:
            parts.append(
                f'<path vector-effect="non-scaling-stroke" stroke="{COLOURS[line.kind]}" {PENS[line.kind]} '
                f'd="{line.path}"/>'
            )
    return [*parts, "</g>", "</g>"]
