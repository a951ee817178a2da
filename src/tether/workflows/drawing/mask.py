"""A mask that says what of an image may change."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from tether.core.errors import InputError
from tether.data.dense_labels import read_png


def read_mask(mask: str | Path | Tensor, *, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Where an image may change: what is white, or anything but black.

    Args:
        mask: a PNG, or booleans (h, w).
        size: height and width of the image.

    Raises:
        InputError: a file that is no PNG, another size, or a mask of all or of nothing.
    """
    if isinstance(mask, Tensor):
        marked, where = mask.detach().cpu(), "mask"
    else:
        values, where = torch.from_numpy(read_png(Path(mask)).copy()), str(mask)
        marked = values != 0 if values.ndim == 2 else (values[..., :3] != 0).any(dim=2)
    if marked.dtype != torch.bool or tuple(marked.shape) != size:
        got = f"{marked.dtype} {tuple(marked.shape)}"
        raise InputError(f"--mask: {where}: expected the image's {size[0]} x {size[1]} pixels (h x w), got {got}")
    check_part(marked, where=where)
    return marked


def check_part(marked: Bool[Tensor, "h w"], *, where: str) -> None:
    """See that a mask says something.

    Raises:
        InputError: it marks all or nothing.
    """
    if bool(marked.all()) or not bool(marked.any()):
        part = "all" if bool(marked.all()) else "nothing"
        raise InputError(f"--mask: {where}: expected some of the image, but not all, to be white, got {part}")
