"""A page with a drawing, how it came about, and its loss."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from tether.evaluate.html.curves import Kind, Line, chart
from tether.evaluate.html.templates import render
from tether.generation.edit.frames import png_bytes

_KINDS: tuple[Kind, ...] = ("main", "second", "third", "fourth", "fifth", "sixth")
"""Of the losses' lines, in order."""


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """One image of the film: how many steps the canvas had had, and the image as a data URI."""

    step: int
    uri: str


def film_page(
    prompt: str,
    *,
    canvas: str,
    frames: Sequence[tuple[int, UInt8[Tensor, "3 h w"]]],
    losses: Mapping[str, Sequence[float]],
    told: Sequence[tuple[str, str]],
    svg: str | None,
    verb: str,
) -> str:
    """One HTML page that loads nothing from elsewhere.

    Args:
        prompt: what was drawn.
        canvas: on what, in words.
        frames: steps and images, the start first.
        losses: of each step.
        told: names and values beside the drawing.
        svg: the drawing as lines, if there is such a thing.
        verb: that made it, ``draw`` or ``edit``.
    """
    lines = [
        Line(name, kind, list(enumerate(values, 1)))
        for (name, values), kind in zip(losses.items(), itertools.cycle(_KINDS), strict=False)
    ]
    drawn = chart("loss", lines=lines)
    return render(
        "film.html.j2",
        package="tether.workflows.drawing",
        prompt=prompt,
        canvas=canvas,
        verb=verb,
        noun="drawing" if verb == "draw" else "edit",
        steps=f"{frames[-1][0]:,}",
        frames=[ShownFrame(step, png_uri(image)) for step, image in frames],
        told=told,
        chart=drawn,
        chart_data=[] if drawn is None else [drawn.data],
        svg=None if svg is None else f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}",
    )


def png_uri(image: UInt8[Tensor, "3 h w"]) -> str:
    """An image as a data URI, pixel for pixel."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"
