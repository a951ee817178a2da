"""What a verb that paints gives: an image, its files and its film."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.atomic_io import atomic_path, write_text
from tether.core.protocols import DualEncoder
from tether.generation.edit.frames import png_bytes
from tether.generation.edit.style_goals import unit_images
from tether.generation.painting import Painting
from tether.models.embed import encode_texts
from tether.workflows.drawing.film import film_page, png_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedImage:
    """An image that was painted.

    Attributes:
        painting: the canvas, its image, losses and frames.
        similarity: cosine of the image and the text by the model that led; it rises by construction.
        remarks: what else is worth knowing.
        state: file of the painting, which stays until ``remove_state``; None where none was asked for.
    """

    painting: Painting
    similarity: float
    remarks: list[str] = field(default_factory=list)
    state: Path | None = None

    @property
    def image(self) -> Float[Tensor, "3 h w"]:
        """In 0 to 1."""
        return self.painting.image

    def save_png(self, path: str | Path) -> Path:
        """Write the image, as the model saw it, atomically."""
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(png_bytes(as_bytes(self.image)))
        return Path(path)

    def film(self, path: str | Path) -> Path:
        """Write one HTML page with the image, its SVG if it has one, frames on the way and losses, atomically."""
        page = film_page(
            self._title(),
            canvas=self._kind(),
            frames=[(frame.step, frame.image) for frame in self.painting.frames],
            losses=self.painting.losses,
            told=[*self._told(), *(("remark", line) for line in self.remarks)],
            svg=self._lines(),
            verb=self._verb(),
        )
        write_text(Path(path), page)
        return Path(path)

    def remove_state(self) -> None:
        """Remove the file of the painting on its way, once what you want of it is written."""
        if self.state is not None:
            self.state.unlink(missing_ok=True)

    def _title(self) -> str:
        raise NotImplementedError

    def _kind(self) -> str:
        raise NotImplementedError

    def _verb(self) -> str:
        return "draw"

    def _told(self) -> list[tuple[str, str]]:
        """Names and values beside the image, the similarity first."""
        raise NotImplementedError

    def _lines(self) -> str | None:
        return None

    def _repr_html_(self) -> str:
        shown = f'<img src="{png_uri(as_bytes(self.image))}" width="300" alt="">'
        return f"{shown}<p>{escape(self._title())}: {self._told()[0][1]}</p>"


def as_bytes(image: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """An image in 0 to 1 as pixels on the processor."""
    return image.detach().cpu().mul(255).round().to(torch.uint8)


@torch.no_grad()
def nearness(model: DualEncoder, text: str, *images: Float[Tensor, "3 h w"]) -> list[float]:
    """Cosines of a text and of images in 0 to 1, all of one size."""
    rows = unit_images(model, torch.stack([image.to(model.logit_scale.device) for image in images]))
    return F.cosine_similarity(rows, encode_texts(model, [text]).to(rows)).tolist()
