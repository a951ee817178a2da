"""Images under their maps as one HTML file that needs nothing else, the most unusual first."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.atomic_io import write_text

SIDE = 720
"""Pixels of the long side of an image in the page."""
_HEAT_SIDE = 240  # of its map, which is smooth
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ShownDefect:
    """What a page needs of one image.

    Attributes:
        key: of the image.
        found: its score and its map.
        size: height and width in pixels of what is shown.
        photo: JPEG bytes.
        truth: PNG bytes of the outline of its mask, see-through elsewhere; or None.
        label: whether the mask shows a defect; None without a mask.
    """

    key: str
    found: AnomalyMap
    size: tuple[int, int]
    photo: bytes
    truth: bytes | None = None
    label: bool | None = None

    def heat(self, span: Span) -> str:
        """The map in colours, as a data URI."""
        file = io.BytesIO()
        self.found.to_image(span=span, longest=_HEAT_SIDE).save(file, "PNG", optimize=True)
        return _uri(file.getvalue(), "png")

    def figure(self, span: Span) -> str:
        """The image under its map, for a notebook."""
        over = "position:absolute;inset:0;width:100%;height:100%;opacity:.7;margin:0"
        return (
            "<figure style='margin:0;width:min(100%,240px)'><div style='position:relative;line-height:0'>"
            f"<img src='{_uri(self.photo, 'jpeg')}' alt='' style='width:100%;margin:0'>"
            f"<img src='{self.heat(span)}' alt='' style='{over}'></div>"
            f"<figcaption>{escape(self.key)} {self.found.score:.3f}</figcaption></figure>"
        )


def shown_defect(
    key: str, image: UInt8[Tensor, "3 h w"], found: AnomalyMap, *, truth: Bool[np.ndarray, "h w"] | None = None
) -> ShownDefect:
    """An image made small for a page.

    Args:
        key: of the image.
        image: its pixels.
        found: its map.
        truth: True where it is defective.
    """
    from PIL import Image

    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    share = min(1.0, SIDE / max(photo.size))
    size = (max(1, round(photo.width * share)), max(1, round(photo.height * share)))
    photo = photo.resize(size, Image.Resampling.LANCZOS) if share < 1 else photo
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=85)
    label = None if truth is None else bool(truth.any())
    outline = None if truth is None or not label else _outline(truth, size)
    return ShownDefect(key, found, (size[1], size[0]), file.getvalue(), outline, label)


def _outline(truth: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> bytes:
    from PIL import Image
    from scipy import ndimage

    small = np.array(Image.fromarray(truth).convert("L").resize(size, Image.Resampling.BOX)) > 0
    edge = ndimage.binary_dilation(small, iterations=2) & ~small
    file = io.BytesIO()
    colours = np.zeros((*edge.shape, 4), dtype=np.uint8)
    colours[edge] = (0, 230, 255, 255)
    Image.fromarray(colours).save(file, "PNG", optimize=True)
    return file.getvalue()


def gallery(
    images: Sequence[ShownDefect],
    path: Path,
    *,
    span: Span,
    threshold: float | None,
    title: str,
    note: str = "",
    remarks: Sequence[str] = (),
    figures: Sequence[tuple[str, str, str]] = (),
) -> Path:
    """Write the page.

    Args:
        images: what is shown, in order.
        path: the HTML file; written atomically.
        span: values of no colour and of the full one, see ``AnomalyMap.heat``.
        threshold: score above which an image is called defective; None where there is none.
        title: heading of the page.
        note: a line beside it.
        remarks: lines at the end.
        figures: measured numbers: what, the number, and its interval, as text.

    Returns:
        The path.
    """
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("tether.tasks.anomaly", "."), autoescape=True)
    highest = max((one.found.score for one in images), default=1.0) or 1.0
    page = pages.get_template("gallery.html.j2").render(
        title=title,
        note=note,
        remarks=remarks,
        figures=figures,
        threshold=threshold,
        line=None if threshold is None else 100 * threshold / highest,
        images=[_shown(one, span, threshold, highest) for one in images],
        truths=any(one.truth is not None for one in images),
    )
    write_text(path, page)
    return path


def _shown(one: ShownDefect, span: Span, threshold: float | None, highest: float) -> dict[str, Any]:
    x, y = one.found.peak()
    height, width = one.found.size
    return {
        "key": one.key,
        "height": one.size[0],
        "width": one.size[1],
        "photo": _uri(one.photo, "jpeg"),
        "heat": one.heat(span),
        "truth": None if one.truth is None else _uri(one.truth, "png"),
        "label": one.label,
        "score": one.found.score,
        "share": 100 * one.found.score / highest,
        "alarm": threshold is not None and one.found.score > threshold,
        "x": 100 * x / width,
        "y": 100 * y / height,
    }


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
