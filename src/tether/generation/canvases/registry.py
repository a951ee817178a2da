"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.generation.canvases.canvas import Canvas

CANVASES: Registry[Canvas] = Registry(
    "canvases",
    {
        "strokes": "tether.generation.canvases.strokes:StrokeCanvas",
        "primitives": "tether.generation.canvases.primitives:PrimitiveCanvas",
        "implicit": "tether.generation.canvases.implicit:FinerField",
        "pixels": "tether.generation.canvases.pixels:PixelCanvas",
    },
)
"""Every canvas by name."""
