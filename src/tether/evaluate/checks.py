"""What every measure asks of embeddings before it trusts them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError


def checked_rows(rows: Float[Tensor, "n d"], *, name: str, least: int = 1) -> Float[Tensor, "n d"]:
    """The same rows, at least float32, after a look at shape and values.

    Args:
        rows: embeddings of any float dtype; half precision is up-cast.
        name: what they are called in an error message.
        least: smallest allowed n.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise InputError(f"{name}: expected float embeddings (n, d), got {rows.dtype} {tuple(rows.shape)}")
    if len(rows) < least:
        raise InputError(f"{name}: expected at least {least} rows, got {len(rows)}")
    if not torch.isfinite(rows).all():
        bad = torch.nonzero(~torch.isfinite(rows).all(dim=1)).flatten()
        raise InputError(f"{name}: {len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row {int(bad[0])}")
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def checked_pair(
    image: Float[Tensor, "n d"], text: Float[Tensor, "m d"], *, paired: str = "", least: int = 1
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Both sides checked, of one width and dtype; with ``paired`` (who asks) also of one length."""
    image, text = checked_rows(image, name="image", least=least), checked_rows(text, name="text", least=least)
    if image.shape[1] != text.shape[1]:
        raise InputError(f"image and text differ in width: {tuple(image.shape)} and {tuple(text.shape)}")
    if paired and len(image) != len(text):
        raise InputError(f"{paired} needs pairs: got {tuple(image.shape)} images and {tuple(text.shape)} texts")
    dtype = torch.promote_types(image.dtype, text.dtype)
    return image.to(dtype), text.to(dtype)
