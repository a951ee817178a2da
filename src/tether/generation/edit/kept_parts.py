"""What an edit shall keep: parts of an image as soft maps, losses of what has moved, and parts pasted back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError

_SLACK = 1e-4
"""By how much a map may leave 0 to 1, as sums of probabilities do."""


@dataclass(frozen=True, slots=True)
class PartMaps:
    """Where the parts of each image are, as numbers from 0 to 1 or as booleans, which become numbers.

    Attributes:
        body: what a text may change.
        head: what is kept, and pasted back at the end.
        pose: how the rest is arranged: one map a part, such as arms and legs.

    Raises:
        InputError: another shape, maps of several sizes, or a number outside of 0 to 1.

    Example:
        >>> import torch
        >>> from tether.generation import PartMaps
        >>> PartMaps(body=torch.ones(1, 1, 8, 8), head=torch.zeros(1, 1, 8, 8), pose=torch.rand(1, 4, 8, 8)).size
        (8, 8)
    """

    body: Float[Tensor, "b 1 h w"]
    head: Float[Tensor, "b 1 h w"]
    pose: Float[Tensor, "b p h w"]

    def __post_init__(self) -> None:
        """Hold them to their shapes and range."""
        for name in ("body", "head", "pose"):
            maps = getattr(self, name)
            many = "p" if name == "pose" else 1
            if maps.ndim != 4 or (many == 1 and maps.shape[1] != 1):
                raise InputError(f"{name}: expected (b, {many}, h, w) maps, got {tuple(maps.shape)}")
            if (len(maps), *maps.shape[2:]) != (len(self.body), *self.body.shape[2:]):
                raise InputError(f"{name}: expected the images and size of body, {tuple(self.body.shape)}, got "
                                 f"{tuple(maps.shape)}")  # fmt: skip
            object.__setattr__(self, name, _shares(maps, name))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.body.shape[2], self.body.shape[3]


Parser = Callable[[Tensor], PartMaps]
"""Finds the parts of (b, 3, h, w) images in 0 to 1, with gradient to them where maps shall stay as they are."""


def text_gap(similarity: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """1 minus the cosine of each image and its text, added up.

    Args:
        similarity: cosines.
    """
    return (1 - similarity).sum()


def changed_outside(
    made: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], body: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, ""]:
    """How far images are from others where they may not change: squared, a mean over all pixels, added over images.

    Args:
        made: images.
        real: what they were.
        body: 1 where they may change, 0 where not.

    Raises:
        InputError: shapes that do not fit, or a mask outside of 0 to 1.

    Example:
        >>> import torch
        >>> from tether.generation.edit.kept_parts import changed_outside
        >>> body = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
        >>> changed_outside(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), body).item()  # three of four pixels
        0.75
    """
    _same(made, real, "made")
    kept = 1 - _mask(body, made, "body")
    return changed_maps(kept * made, kept * real)


def changed_maps(made: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """How far maps of parts are from what they were: squared, a mean over an image's numbers, added over images.

    Args:
        made: maps, with gradient.
        real: of the images as they were.

    Raises:
        InputError: shapes that differ.
    """
    _same(made, real, "made")
    return (made - real).square().mean(dim=(1, 2, 3)).sum()


def code_spread(w: Float[Tensor, "b n d"]) -> Float[Tensor, ""]:
    """How far the codes of later layers are from the first's: squared, a mean over their numbers, added over images.

    The gradient reaches the first layer's code, too.

    Args:
        w: a code a layer.

    Raises:
        InputError: another shape, or one layer alone.

    Example:
        >>> import torch
        >>> from tether.generation.edit.kept_parts import code_spread
        >>> code_spread(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])).item()
        2.0
    """
    if w.ndim != 3 or w.shape[1] < 2:
        raise InputError(f"w: expected (b, n, d) codes of at least two layers, got {tuple(w.shape)}")
    return (w[:, 1:] - w[:, :1]).square().mean(dim=(1, 2)).sum()


def pasted(
    made: Float[Tensor, "b c h w"], real: Float[Tensor, "b c h w"], head: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Images with a part of others laid over them.

    Args:
        made: images.
        real: whose part is kept.
        head: 1 where ``real`` is shown, 0 where ``made`` is.

    Raises:
        InputError: shapes that do not fit, or a mask outside of 0 to 1.
    """
    _same(made, real, "made")
    head = _mask(head, made, "head")
    return (1 - head) * made + head * real


def _same(made: Tensor, real: Tensor, name: str) -> None:
    if made.ndim != 4 or made.shape != real.shape:
        raise InputError(f"{name}: expected (b, c, h, w) of one shape, got {tuple(made.shape)} and {tuple(real.shape)}")


def _shares(maps: Tensor, name: str) -> Tensor:
    """Maps, booleans as numbers."""
    maps = maps.float() if maps.dtype == torch.bool else maps
    if not bool(((maps >= -_SLACK) & (maps <= 1 + _SLACK)).all()):
        low, high = maps.detach().aminmax()
        raise InputError(f"{name}: expected numbers from 0 to 1, got {low:g} to {high:g}")
    return maps


def _mask(mask: Tensor, image: Tensor, name: str) -> Tensor:
    wanted = (len(image), 1, *image.shape[2:])
    if tuple(mask.shape) != wanted:
        raise InputError(f"{name}: expected {wanted}, got {tuple(mask.shape)}")
    return _shares(mask, name).to(image)


def stacked_maps(maps: Float[Tensor, "b c h w"], *, body: tuple[int, ...], head: tuple[int, ...]) -> PartMaps:
    """Parts out of the probabilities of several classes: those that may change, those that are kept, and all as pose.

    Args:
        maps: that add up to at most 1 at each pixel.
        body: numbers of the classes that a text may change.
        head: numbers of the classes that are kept.

    Raises:
        InputError: a class that there is not, or one on both sides.
    """
    if both := set(body) & set(head):
        raise InputError(f"body, head: expected different classes, got {sorted(both)} in both")
    if wrong := [one for one in (*body, *head) if not 0 <= one < maps.shape[1]]:
        raise InputError(f"body, head: expected classes from 0 to {maps.shape[1] - 1}, got {wrong[0]}")
    parts = [maps[:, list(some)].sum(dim=1, keepdim=True).clamp(0, 1) for some in (body, head)]
    return PartMaps(parts[0], parts[1], torch.clamp(maps, 0, 1))
