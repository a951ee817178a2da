"""What a loss asks of the embeddings it is given, and labels for captions that are equal."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import Encoded, Features

LENGTH_TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""How far a row's length may be from 1 in half precision; 1e-3 otherwise."""


def check_unit_pairs(image: Tensor, text: Tensor) -> None:
    """See that both sides are (b, d) rows of length 1 with b >= 1.

    Lengths are looked at on the CPU only, for on an accelerator the answer would have to be waited for. NaN passes:
    a loss hands it on, and the clipper skips the step.
    """
    shapes = f"image {tuple(image.shape)} and text {tuple(text.shape)}"
    if image.ndim != 2 or text.ndim != 2:
        raise InputError(f"expected embeddings (b, d), got {shapes}")
    if image.shape != text.shape:
        raise InputError(f"expected as many images as texts, of one width, got {shapes}")
    if image.shape[0] == 0:
        raise InputError(f"expected at least one pair, got an empty batch: {shapes}")
    for name, rows in (("image", image), ("text", text)):
        check_unit_lengths(rows, name=name)


def check_unit_lengths(rows: Tensor, *, name: str) -> None:
    """Refuse, on the CPU, a row whose length is not 1; errors call the rows ``name``."""
    if rows.device.type == "cpu":
        length = torch.linalg.vector_norm(rows.detach(), dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))
        bad = ((length - 1).abs() > LENGTH_TOLERANCE.get(rows.dtype, 1e-3)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise InputError(f"{name} row {row} has length {float(length[row]):.6g}, expected 1: normalise first")


def check_cosine(out: Encoded) -> None:
    """See that the model compares by cosine, as a loss on unit rows does.

    Raises:
        InputError: it does not, so that retrieval would use another similarity than was trained.
    """
    if out.geometry.name != "clip":
        raise InputError(
            f"this loss compares by cosine, the model's geometry is {out.geometry.name!r}: use objective: geometry"
        )


def unit_rows(features: Features) -> Float[Tensor, "b d"]:
    """The embeddings scaled to length 1, in float32 or wider whatever the autocast."""
    pooled = features.pooled
    return Features(pooled.to(torch.promote_types(pooled.dtype, torch.float32))).unit


def caption_labels(text: Int[Tensor, "b l"]) -> Int[Tensor, " b"]:
    """A 64-bit label for each caption, equal where the tokens are, on every process and for any padding.

    Two different captions share a label with a chance below 2^-47.
    """
    places = torch.arange(1, text.shape[1] + 1, dtype=torch.int64, device=text.device)
    mixed = places * -7046029254386353131  # the odd constants of SplitMix64; products wrap around on purpose
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685
    return (text.to(torch.int64) * (mixed ^ (mixed >> 31))).sum(dim=1)
