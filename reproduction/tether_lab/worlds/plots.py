"""Line plots as papers print them, with the long captions that papers give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

SIDE = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "blue": (40, 84, 214),
    "green": (40, 150, 60),
    "orange": (244, 132, 20),
    "purple": (128, 52, 176),
    "black": (20, 20, 20),
}
TRENDS = ("rises", "falls", "stays flat", "peaks", "dips", "swings")
STYLES = ("solid", "dashed", "dotted")
MOST_CURVES = 2
_QUANTITIES = ("response", "density", "error", "temperature", "yield", "pressure", "signal", "loss")
_AXES = ("time", "distance", "dose", "frequency", "depth", "age")
_METHODS = (
    "Values are means of five independent runs.",
    "Error bars are smaller than the lines.",
    "All quantities are normalised to their first value.",
    "Measurements were repeated on three days with fresh samples.",
    "The shaded range was left out of the fit.",
    "Details are given in the supplementary material.",
    "Both axes are linear, and the zero is suppressed.",
)
_ON = {"solid": (1, 0), "dashed": (9, 7), "dotted": (3, 4)}  # pixels drawn and left out along the way
_WIDTH = 4


@dataclass(frozen=True, slots=True)
class PlotLine:
    """One line of a plot: a key of ``COLOURS``, one of ``TRENDS``, one of ``STYLES``."""

    colour: str
    trend: str
    style: str


@dataclass(frozen=True, slots=True)
class Plot:
    """What a plot shows, and what its caption says besides."""

    curves: tuple[PlotLine, ...]
    caption: str


def draw_plot(rng: np.random.Generator) -> Plot:
    """One or two curves of different colours, and a caption of about 230 characters that tells them."""
    count = int(rng.integers(1, MOST_CURVES + 1))
    colours = rng.permutation(list(COLOURS))[:count]
    curves = tuple(PlotLine(str(colour), _one(TRENDS, rng), _one(STYLES, rng)) for colour in colours)
    said = " while ".join(f"the {curve.style} {curve.colour} curve {curve.trend}" for curve in curves)
    methods = rng.permutation(_METHODS)[: int(rng.integers(2, 4))]
    opening = f"The {_one(_QUANTITIES, rng)} as a function of {_one(_AXES, rng)}."
    return Plot(curves, " ".join([opening, f"{said[0].upper()}{said[1:]}.", *methods]))


def render_plot(plot: Plot, *, rng: np.random.Generator) -> UInt8[np.ndarray, "64 64 3"]:
    """Axes and curves on white; how high and how steep a curve is, is left to chance."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(image)
    pen.line([(5, 2), (5, 58), (62, 58)], fill=(90, 90, 90), width=2)
    across = np.linspace(0, 1, 54)
    for curve in plot.curves:
        height = _height(curve.trend, across, rng)
        points = [(8 + x, 54 - 48 * y) for x, y in enumerate(height)]
        drawn, left_out = _ON[curve.style]
        for start in range(0, len(points), drawn + left_out if left_out else len(points)):
            part = points[start : start + (drawn if left_out else len(points))]
            if len(part) > 1:
                pen.line(part, fill=COLOURS[curve.colour], width=_WIDTH)
    return np.asarray(image)


def _height(trend: str, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) heights in [0, 1]."""
    low, span = rng.uniform(0.02, 0.25), rng.uniform(0.55, 0.73)
    bent = across ** rng.uniform(0.7, 1.5)
    shape = {
        "rises": bent,
        "falls": 1 - bent,
        "stays flat": np.full_like(across, rng.uniform(0.0, 1.0)),
        "peaks": np.sin(np.pi * across) ** 2,
        "dips": 1 - np.sin(np.pi * across) ** 2,
        "swings": 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(2.0, 3.0) * across + rng.uniform())),
    }[trend]
    return low + span * shape


def _one(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]
