"""Strokes as SVG, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SvgPath:
    """One stroke.

    Attributes:
        points: of cubic curves that follow each other, 3 k + 1.
        width: ``stroke-width``, the whole thickness in pixels.
        rgb: red, green and blue, 0 to 1.
        opacity: 0 to 1.
    """

    points: Sequence[Point]
    width: float
    rgb: tuple[float, float, float]
    opacity: float


def svg_text(paths: Iterable[SvgPath], *, width: int, height: int, ground: str = "white") -> str:
    """A drawing with round ends on a ground; the first path lies at the bottom.

    Example:
        >>> from tether.generate.draw.svg import SvgPath, svg_text
        >>> line = SvgPath([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0)], 2.0, (1.0, 0.0, 0.0), 0.5)
        >>> 'd="M0 0C1 0 2 0 3 0"' in svg_text([line], width=4, height=4)
        True
    """
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="{ground}"/>',
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
    ]
    for path in paths:
        rgb = ",".join(str(round(255 * value)) for value in path.rgb)
        where = " ".join(f"{_short(x)} {_short(y)}" for x, y in path.points[1:])
        first = " ".join(map(_short, path.points[0]))
        drawn.append(
            f'<path d="M{first}C{where}" stroke="rgb({rgb})" '
            f'stroke-opacity="{_short(path.opacity)}" stroke-width="{_short(path.width)}"/>'
        )
    return "\n".join([*drawn, "</g>", "</svg>", ""])


def _short(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}".rstrip("0").rstrip(".")
