"""Masks over their images as one HTML file that needs nothing else, with a legend that is also a switch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.atomic_io import write_text
from tether.core.masks import BACKGROUND, Masks

if TYPE_CHECKING:
    from PIL import Image as PillowImage

SIDE = 720
"""Pixels of the long side of an image in the page."""
NAMED = 5
"""Classes that are named below an image, the largest first."""
LEAST_NAMED = 0.005
"""Share of an image from which on a class is named."""


@dataclass(frozen=True, slots=True)
class ShownMasks:
    """What a page needs of one image.

    Attributes:
        key: of the image.
        size: height and width in pixels of what is shown.
        photo: JPEG bytes.
        masks: palette PNG bytes of the same size.
        truth: likewise of the true classes, or None.
        areas: share of each class.
    """

    key: str
    size: tuple[int, int]
    photo: bytes
    masks: bytes
    truth: bytes | None
    areas: Mapping[str, float]

    def figure(self) -> str:
        """The image under its masks, for a notebook."""
        photo, masks = _uri(self.photo, "jpeg"), _uri(self.masks, "png")
        width = "width:min(100%,320px)"
        over = "position:absolute;inset:0;width:100%;height:100%;opacity:.5;margin:0"
        return (
            f"<figure style='margin:0;{width}'><div style='position:relative;line-height:0'>"
            f"<img src='{photo}' alt='' style='width:100%;margin:0'><img src='{masks}' alt='' style='{over}'></div>"
            f"<figcaption>{escape(self.key)}</figcaption></figure>"
        )


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def shown_masks(
    key: str, image: UInt8[Tensor, "3 h w"], masks: Masks, *, truth: UInt8[np.ndarray, "h w"] | None = None
) -> ShownMasks:
    """An image and its masks made small for a page.

    Args:
        key: of the image.
        image: its pixels.
        masks: of the same size.
        truth: true class numbers.
    """
    from PIL import Image

    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    share = min(1.0, SIDE / max(photo.size))
    size = (max(1, round(photo.width * share)), max(1, round(photo.height * share)))
    photo = photo.resize(size, Image.Resampling.LANCZOS) if share < 1 else photo
    true = None if truth is None else Masks(masks.classes, truth, palette=masks.palette)
    return ShownMasks(
        key,
        (size[1], size[0]),
        _bytes(photo, "JPEG", quality=85),
        _small(masks, size),
        None if true is None else _small(true, size),
        masks.areas(),
    )


def _small(masks: Masks, size: tuple[int, int]) -> bytes:
    from PIL import Image

    return _bytes(masks.to_image().resize(size, Image.Resampling.NEAREST), "PNG", optimize=True)


def _bytes(image: PillowImage.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def gallery(
    images: Sequence[ShownMasks],
    path: Path,
    *,
    like: Masks,
    areas: Mapping[str, float],
    note: str = "",
    remarks: Sequence[str] = (),
    figures: Sequence[tuple[str, str, str]] = (),
    bars: Sequence[tuple[str, float, tuple[float, float]]] = (),
    verdict: str = "",
) -> Path:
    """Write the page.

    Args:
        images: what is shown.
        path: the HTML file; written atomically.
        like: any masks of these classes and colours.
        areas: mean share of each class over all images.
        note: a line below the heading.
        remarks: lines at the end.
        figures: measured numbers: what, the number, and its interval, as text.
        bars: classes with their IoU and its interval, 0 to 1.
        verdict: a line below the figures.

    Returns:
        The path.
    """
    from jinja2 import Environment, PackageLoader

    assert like.palette is not None  # Masks chooses one
    tints = (f"rgb({','.join(map(str, one.tolist()))})" for one in like.palette)
    colours = dict(zip(like.classes, tints, strict=True))
    shown = [name for name in like.classes if name != BACKGROUND]
    pages = Environment(loader=PackageLoader("tether.tasks.segment", "."), autoescape=True)
    page = pages.get_template("gallery.html.j2").render(
        note=note,
        remarks=remarks,
        figures=figures,
        verdict=verdict,
        bars=[{"name": name, "value": value, "low": low, "high": high} for name, value, (low, high) in bars],
        colours=colours,
        legend=[{"name": name, "share": areas[name]} for name in shown],
        images=[_shown(one, shown) for one in images],
        truths=any(one.truth is not None for one in images),
        palette={
            "classes": list(like.classes),
            "colours": like.palette.tolist(),
            "background": like.background,
        },
    )
    write_text(path, page)
    return path


def _shown(one: ShownMasks, classes: Sequence[str]) -> dict[str, Any]:
    parts = sorted(((one.areas[name], name) for name in classes if one.areas[name] > 0), key=lambda part: -part[0])
    return {
        "key": one.key,
        "height": one.size[0],
        "width": one.size[1],
        "photo": _uri(one.photo, "jpeg"),
        "masks": _uri(one.masks, "png"),
        "truth": None if one.truth is None else _uri(one.truth, "png"),
        "parts": parts,
        "named": [(name, share) for share, name in parts[:NAMED] if share >= LEAST_NAMED],
    }
