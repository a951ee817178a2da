"""Canvases for the painting loop: strokes, blobs, primitives, a network of places, pixels; and ``generate.draw``."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.callable_module import make_callable
from tether.generate.draw.blob_raster import Camera, render_blobs
from tether.generate.draw.blobs import BlobCanvas3D
from tether.generate.draw.canvas import FRONT, Canvas, Viewpoint, drop_mask
from tether.generate.draw.implicit import FinerField, layer_schedule
from tether.generate.draw.pixels import PixelCanvas
from tether.generate.draw.primitives import PrimitiveCanvas
from tether.generate.draw.stroke_raster import render_strokes
from tether.generate.draw.strokes import StrokeCanvas

CANVASES: Mapping[str, type[Canvas]] = {
    "strokes": StrokeCanvas,
    "blobs": BlobCanvas3D,
    "primitives": PrimitiveCanvas,
    "implicit": FinerField,
    "pixels": PixelCanvas,
}
"""Every canvas by name."""

make_callable(__name__, "tether.generate.draw.prompted:draw")

__all__ = [
    "CANVASES",
    "FRONT",
    "BlobCanvas3D",
    "Camera",
    "Canvas",
    "FinerField",
    "PixelCanvas",
    "PrimitiveCanvas",
    "StrokeCanvas",
    "Viewpoint",
    "drop_mask",
    "layer_schedule",
    "render_blobs",
    "render_strokes",
]
