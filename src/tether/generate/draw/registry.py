"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.generate.draw.canvas import Canvas

CANVASES: Registry[Canvas] = Registry(
    "canvases",
    {
        "strokes": "tether.generate.draw.strokes:StrokeCanvas",
        "primitives": "tether.generate.draw.primitives:PrimitiveCanvas",
        "implicit": "tether.generate.draw.implicit:FinerField",
        "pixels": "tether.generate.draw.pixels:PixelCanvas",
    },
)
"""Every canvas by name."""
