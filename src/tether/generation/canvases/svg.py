"""Strokes as SVG, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from tether.core.errors import InputError

MAX_STROKES, MAX_POINTS, MAX_LETTERS = 100_000, 1_000_000, 8_000_000
"""Of a drawing that is read: a letter of a path may stand for three points."""
_LOST = ("transform", "style", "opacity", "clip-path", "mask", "filter", "display", "visibility")
_STROKE = ("stroke", "stroke-width", "stroke-opacity")
_ENDS = ("stroke-linecap", "stroke-linejoin", "stroke-miterlimit")
_NAMED = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
_TOKEN = re.compile(r"[A-Za-z]|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
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
        >>> from tether.generation.canvases.svg import SvgPath, svg_text
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


def read_svg(text: str, *, where: str) -> tuple[list[SvgPath], tuple[float, float]]:
    """The strokes of a drawing: its ``path`` elements of lines and cubic curves, each a chain that starts anew.

    What ``svg_text`` writes is read exactly to its digits. Of other drawings the commands M, L, H, V, C and Z are read,
    in either case, with the strokes of the groups around them; fills, transforms, styles and other shapes are refused,
    as they would be lost. The ground, one rectangle over all, is left out.

    Args:
        text: of the file.
        where: file, for the error.

    Returns:
        Paths, and width and height of the drawing.

    Raises:
        InputError: not SVG, nothing to draw, or what cannot be read; it says which.
    """
    if len(text) > MAX_LETTERS:
        raise InputError(f"{where}: expected at most {MAX_LETTERS:,} letters, got {len(text):,}")
    if re.search(r"<!doctype\s+html\b", text, re.IGNORECASE):
        raise InputError(f"{where}: expected SVG, got <html>")
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise InputError(f"{where}: expected SVG without a document type, whose entities could grow without end")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{where}: not SVG: {error}") from None
    if _tag(root) != "svg":
        raise InputError(f"{where}: expected SVG, got <{_tag(root)}>")
    sides, found, points, grounds = _sides(root.attrib, where), list[SvgPath](), 0, 0
    waiting: list[tuple[ElementTree.Element, dict[str, str]]] = [(root, {})]
    while waiting:
        element, around = waiting.pop()
        tag = _tag(element)
        given = _given(element, around, where)
        if tag == "rect" and not found and not grounds and _is_ground(element.attrib, sides, where):
            grounds += 1
        elif tag not in ("svg", "g", "title", "desc", "path"):
            raise InputError(f"{where}: <{tag}>: only paths are read")
        if tag == "path":
            for path in _paths(given, f"{where}: path {len(found)}"):
                found.append(path)
                points += len(path.points)
                if len(found) > MAX_STROKES or points > MAX_POINTS:
                    raise InputError(f"{where}: expected at most {MAX_STROKES:,} strokes and {MAX_POINTS:,} points")
        waiting += [(inside, given) for inside in reversed(element)]
    if not found:
        raise InputError(f"{where}: expected 1 to {MAX_STROKES:,} strokes, got 0")
    return found, sides


def _given(element: ElementTree.Element, around: dict[str, str], where: str) -> dict[str, str]:
    """What is said of an element: its own, and the strokes of the groups around it."""
    own, tag = element.attrib, _tag(element)
    for name, value in own.items():
        if name in _LOST or (name.startswith("stroke") and name not in (*_STROKE, *_ENDS)):
            raise InputError(f"{where}: <{tag}>: {name} is not read; write plain attributes")
        if name == "fill" and value.strip() != "none" and tag != "rect":
            raise InputError(f'{where}: <{tag}>: fills are not read, got {value!r:.60}; write fill="none"')
    return {**around, **{name: own[name] for name in _STROKE if name in own}, "d": own.get("d", "")}


def _is_ground(given: dict[str, str], sides: Sequence[float], where: str) -> bool:
    """Whether a rectangle lies over all of a drawing."""
    if given.keys() & {"stroke", "rx", "ry"} or any(given.get(name, "0").strip() not in ("0", "0px") for name in "xy"):
        return False
    found = (given.get("width", ""), given.get("height", ""))
    return all(
        one.strip() == "100%" or _number(one, f"{where}: <rect>") == side
        for one, side in zip(found, sides, strict=True)
    )


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _sides(given: dict[str, str], where: str) -> tuple[float, float]:
    box = given.get("viewBox", "").replace(",", " ").split()
    wide, high = box[2:] if len(box) == 4 and box[:2] == ["0", "0"] else (given.get(n, "") for n in ("width", "height"))
    sides = _number(wide, f"{where}: width"), _number(high, f"{where}: height")
    if min(sides) < 1e-3:
        raise InputError(f"{where}: expected sides of at least 0.001, got {sides}")
    return sides


def _paths(given: dict[str, str], where: str) -> Iterator[SvgPath]:
    rgb = _color(given.get("stroke", "black"), where)
    opacity = min(max(_number(given.get("stroke-opacity", "1"), f"{where}: stroke-opacity"), 0.0), 1.0)
    width = _number(given.get("stroke-width", "1"), f"{where}: stroke-width")
    if width <= 0:
        raise InputError(f"{where}: stroke-width: expected a number above 0, got {width:g}")
    for chain in _chains(given.get("d", ""), f"{where}: d"):
        if len(chain) >= 4:
            yield SvgPath(chain, width, rgb, opacity)


def _chains(path: str, where: str) -> Iterator[list[Point]]:
    tokens = _TOKEN.findall(path)
    if re.sub(r"[\s,]", "", _TOKEN.sub("", path)):
        raise InputError(f"{where}: not a path: {path!r:.80}")
    at, command, chain, begun = 0, "", list[Point](), 0

    def take(many: int) -> list[float]:
        nonlocal at
        some = tokens[at : at + many]
        if len(some) < many or any(one.isalpha() for one in some):
            raise InputError(f"{where}: {command}: expected {many} numbers, got {' '.join(some)!r:.80}")
        at += many
        return [_number(one, where) for one in some]

    while at < len(tokens):
        if begun + len(chain) > MAX_POINTS:
            raise InputError(f"{where}: expected at most {MAX_POINTS:,} points")
        if tokens[at].isalpha():
            command = tokens[at]
            at += 1
        if command.upper() not in ("M", "L", "H", "V", "C", "Z") or (command.upper() != "M" and not chain):
            raise InputError(f"{where}: expected M, then L, H, V, C or Z, got {command or tokens[at]!r}")
        x, y = (chain[-1] if chain else (0.0, 0.0)) if command.islower() else (0.0, 0.0)
        match command.upper():
            case "M":
                if chain:
                    begun += len(chain)
                    yield chain
                right, down = take(2)
                chain, command = [(x + right, y + down)], "l" if command == "m" else "L"
            case "C":
                values = take(6)
                chain += [(x + values[place], y + values[place + 1]) for place in (0, 2, 4)]
            case "Z":
                chain += _straight(chain[-1], chain[0])
                command = ""
            case "H":
                chain += _straight(chain[-1], (x + take(1)[0], chain[-1][1]))
            case "V":
                chain += _straight(chain[-1], (chain[-1][0], y + take(1)[0]))
            case _:
                right, down = take(2)
                chain += _straight(chain[-1], (x + right, y + down))
    if chain:
        yield chain


def _straight(start: Point, end: Point) -> list[Point]:
    """A line as a cubic curve, without its first point."""
    (x, y), (to_x, to_y) = start, end
    return [(x + (to_x - x) * share, y + (to_y - y) * share) for share in (1 / 3, 2 / 3, 1.0)]


def _color(text: str, where: str) -> tuple[float, float, float]:
    text = text.strip().lower()
    if text in _NAMED:
        values = [float(one) for one in _NAMED[text]]
    elif re.fullmatch(r"#[0-9a-f]{6}", text):
        values = [float(int(text[place : place + 2], 16)) for place in (1, 3, 5)]
    elif found := re.fullmatch(r"rgb\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\)", text):
        values = [min(float(one), 255.0) for one in found.groups()]
    else:
        raise InputError(f"{where}: stroke: expected rgb(r,g,b), #rrggbb or a plain name, got {text!r:.60}")
    red, green, blue = (value / 255 for value in values)
    return red, green, blue


def _number(text: str, where: str) -> float:
    try:
        value = float(text.strip().removesuffix("px"))
    except ValueError:
        raise InputError(f"{where}: expected a number, got {text!r:.60}") from None
    if not math.isfinite(value) or abs(value) > 1e6:
        raise InputError(f"{where}: expected a number up to 1,000,000, got {text!r:.60}")
    return value
