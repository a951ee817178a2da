"""How far an exported folder's embeddings lie from torch's, on drawn images and texts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.encoders.onnx.encoder import ExportedEncoder
from tether.models.encoders.onnx.graphs import Side, example_ids
from tether.models.train_mode import eval_mode

BATCHES = (1, 3, 64)
LENGTHS = 12
TOLERANCE = 1e-4
"""Largest difference of a number of a unit embedding that a float32 graph may have."""


@torch.no_grad()
def drawn_parity(model: DualEncoder, exported: ExportedEncoder) -> dict[Side, dict[str, Any]]:
    """Both towers against the model, on drawn pixels and ids: each of ``BATCHES``, texts of 3 ids up to the context.

    In batches of more than one text the second is short and padded.
    """
    height, width = model.image_spec.size
    chance = torch.Generator().manual_seed(0)
    images = [torch.randn(rows, 3, height, width, generator=chance) for rows in BATCHES]
    context = model.tokenizer.context_length
    least = min(3, context)
    lengths = sorted({least + round((context - least) * step / (LENGTHS - 1)) for step in range(LENGTHS)})
    texts = []
    for rows in BATCHES:
        for length in lengths if rows < max(BATCHES) else (least, context):
            ids = example_ids(model, rows=rows, length=length)
            if rows > 1 and length > least:
                ids[1] = 0
                ids[1, :least] = example_ids(model, rows=1, length=least)[0]
            texts.append(ids)
    with eval_mode(model):  # pyrefly: ignore[bad-argument-type] - every model of tether.load is a module
        seen = [(model.encode_image(one).unit, exported.encode_image(one).unit) for one in images]
        read = [(model.encode_text(one).unit, exported.encode_text(one).unit) for one in texts]
    return {
        "image": {"batches": list(BATCHES), "size": [height, width], **apart(seen)},
        "text": {"batches": list(BATCHES), "lengths": lengths, **apart(read)},
    }


def apart(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The largest difference of a number, and the mean and least cosine, over pairs of unit rows."""
    ours, theirs = (torch.cat(side).double() for side in zip(*pairs, strict=True))
    cosine = F.cosine_similarity(ours, theirs)
    return {
        "max_difference": float((ours - theirs).abs().max()),
        "mean_cosine": float(cosine.mean()),
        "min_cosine": float(cosine.min()),
    }


def check_parity(found: dict[Side, dict[str, Any]]) -> None:
    """Refuse float32 graphs that do not give the model's embeddings.

    Raises:
        InputError: it names the tower and the difference.
    """
    for side, values in found.items():
        if not values["max_difference"] <= TOLERANCE:
            raise InputError(
                f"export: the {side} tower's graph gives other embeddings than torch: they differ by "
                f"{values['max_difference']:.2g}, expected at most {TOLERANCE:g}"
            )
