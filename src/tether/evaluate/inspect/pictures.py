"""Small pictures that a section made itself, as data URIs."""

from __future__ import annotations

import base64
import io

from jaxtyping import UInt8
from torch import Tensor

from tether.evaluate.embeddings import shrink

SIDE = 72


def uri(picture: UInt8[Tensor, "3 h w"], *, side: int = SIDE) -> str:
    """A picture as a WebP data URI of at most ``side`` pixels."""
    from PIL import Image

    small = shrink(picture[None], side=side)[0]
    buffer = io.BytesIO()
    Image.fromarray(small.permute(1, 2, 0).contiguous().numpy()).save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
