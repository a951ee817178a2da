"""Images made larger by their own mirror image, for what needs sides that a number divides."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError


def mirrored(x: Float[Tensor, "b c h w"], *, multiple: int) -> Float[Tensor, "b c H W"]:
    """Images continued to the right and to the bottom as in a mirror that stands on the last pixel.

    The same as ``F.pad(mode="reflect")`` and ``numpy.pad``, also where an image is smaller than what is added.

    Args:
        x: images of one pixel at least.
        multiple: divides both sides of what is given back, which is no larger than that needs.

    Raises:
        InputError: another shape, or images without pixels.

    Example:
        >>> import torch
        >>> from tether.methods.clap.padding import mirrored
        >>> mirrored(torch.tensor([[[[1.0, 2.0, 3.0]]]]), multiple=4)[0, 0, 0].tolist()
        [1.0, 2.0, 3.0, 2.0]
    """
    if x.ndim != 4 or 0 in x.shape[2:] or multiple < 1:
        raise InputError(f"images: expected (b, c, h, w) with pixels, got {tuple(x.shape)}, multiple {multiple}")
    for axis in (2, 3):
        side = x.shape[axis]
        if side % multiple:
            x = x.index_select(axis, _places(side, -(-side // multiple) * multiple).to(x.device))
    return x


def _places(side: int, wanted: int) -> Tensor:
    period = max(1, 2 * (side - 1))
    place = torch.arange(wanted) % period
    return torch.minimum(place, period - place) if side > 1 else torch.zeros_like(place)
