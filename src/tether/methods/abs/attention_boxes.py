"""Places drawn where a vision transformer looks: boxes around them in pixels, windows around them in tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.ranges import Count, Part, Positive, checked
from tether.data.placement import Placement

PATCH = 16
"""Pixels of a patch in the released arithmetic of boxes, which divides by it again."""


def top_patches(
    attention: Float[Tensor, " n"], *, top_k: int = 20, tau: float = 0.03
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The patches with the most attention, best first, and the probability to draw each: softmax(attention / tau).

    More than there are patches is all of them, with a warning.
    """
    if top_k > len(attention):
        warnings.warn(f"top_k: {top_k} of {len(attention)} patches were asked for; all are taken", stacklevel=2)
    values, indices = torch.topk(attention, min(top_k, len(attention)))
    return indices, (values / tau).softmax(0)


def draw_patches(
    attention: Float[Tensor, " n"], *, n: int, top_k: int = 20, tau: float = 0.03, generator: torch.Generator
) -> Int[Tensor, " draws"]:
    """Patches drawn from ``top_patches``, with replacement."""
    indices, chances = top_patches(attention, top_k=top_k, tau=tau)
    return indices[torch.multinomial(chances, n, replacement=True, generator=generator)]


def patch_boxes(
    patches: Int[Tensor, " k"], *, sizes: Int[Tensor, "k 2"], grid: tuple[int, int], size: tuple[int, int]
) -> Int[Tensor, "k 4"]:
    """Boxes around the middles of patches, cut off at the image's border, so those at the edge are smaller.

    Source: arXiv 2505.13233, released ``main.py``, with its truncations: the corner of a patch is a product in single
    precision, as there.

    Args:
        patches: index of each, ``row * columns + column``.
        sizes: width and height of each box in pixels.
        grid: rows and columns of patches.
        size: height and width of the image.
    """
    found = []
    for patch, (wide, high) in zip(patches, sizes.tolist(), strict=True):
        box = []
        for place, parts, side, length in (
            (patch % grid[1], grid[1], size[1], wide),
            (patch // grid[1], grid[0], size[0], high),
        ):
            step = side / (parts * PATCH)
            low = int((place.cpu() * PATCH).to(torch.float32) * step)
            middle = (low + min(low + int(PATCH * step), side)) // 2
            box.append((max(middle - length // 2, 0), min(middle + length // 2, side)))
        (x0, x1), (y0, y1) = box
        found.append((x0, y0, x1, y1))
    return torch.tensor(found, dtype=torch.int64).view(-1, 4)


@checked
def attention_boxes(
    attention: Float[Tensor, "r c"],
    *,
    size: tuple[int, int],
    n: Count = 50,
    top_k: Count = 20,
    tau: Positive = 0.03,
    ratio: tuple[Part, Part] = (0.6, 0.9),
    generator: torch.Generator,
) -> tuple[Int[Tensor, "n 4"], Int[Tensor, " n"]]:
    """Boxes whose middles are drawn where attention is, and the patches they were drawn at.

    Width and height are drawn evenly and apart, from ``int(ratio[0] * side)`` to ``int(ratio[1] * side)``.

    Args:
        attention: what each patch of the whole image gets.
        size: height and width of the image in pixels.
        n: boxes.
        top_k: patches that may be drawn.
        tau: temperature of the draw.
        ratio: least and largest share of a side.
        generator: of the draws: all patches first, then width and height of each box.

    Example:
        >>> import torch
        >>> from tether.methods.abs.attention_boxes import attention_boxes
        >>> draws = torch.Generator().manual_seed(0)
        >>> boxes, patches = attention_boxes(torch.rand(14, 14), size=(100, 80), n=3, generator=draws)
        >>> boxes.shape, patches.shape
        (torch.Size([3, 4]), torch.Size([3]))
    """
    patches = draw_patches(attention.flatten(), n=n, top_k=top_k, tau=tau, generator=generator)
    ends = [(int(side * ratio[0]), int(side * ratio[1])) for side in (size[1], size[0])]
    sizes = _between(ends, n, generator).clamp_min(2)  # of an image of a pixel or two, too
    return patch_boxes(patches, sizes=sizes, grid=(attention.shape[0], attention.shape[1]), size=size), patches


def token_sizes(
    n: int, *, grid: tuple[int, int], ratio: tuple[float, float] = (0.6, 0.9), generator: torch.Generator
) -> Int[Tensor, " n"] | Int[Tensor, "n 2"]:
    """Sizes of windows of tokens, drawn evenly: one for a square map, one for each axis of another."""
    sides = grid[:1] if grid[0] == grid[1] else grid
    ends = [(int(side * ratio[0]), int(side * ratio[1])) for side in sides]
    found = _between([(low, high + (low == high)) for low, high in ends], n, generator)
    return found[:, 0] if len(sides) == 1 else found


def _between(ends: Sequence[tuple[int, int]], n: int, generator: torch.Generator) -> Int[Tensor, "n e"]:
    """Whole numbers within each of some ends, both among them; row after row."""
    rows = [[torch.randint(low, high + 1, (), generator=generator) for low, high in ends] for _ in range(n)]
    return torch.tensor(rows)


def map_patches(
    patches: Int[Tensor, " k"], *, grid: tuple[int, int], to: tuple[int, int], placement: Placement | None = None
) -> Int[Tensor, " k"]:
    """Indices in one map of patches as indices in another: ``row * rows' // rows``, and columns alike.

    Args:
        patches: indices.
        grid: rows and columns of their map, of the whole image.
        to: those of the other.
        placement: what of the image the other shows, all of it if None; what lies outside goes to its border.
    """
    x0, y0, x1, y1 = (placement or Placement()).box
    found = []
    for place, parts, other, low, high in (
        (patches // grid[1], grid[0], to[0], y0, y1),
        (patches % grid[1], grid[1], to[1], x0, x1),
    ):
        share = (place.double() / parts - low) / (high - low)
        found.append((share * other + 1e-6).floor().long().clamp(0, other - 1))
    return found[0] * to[1] + found[1]
