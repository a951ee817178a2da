"""Embeddings of small windows of an image: a vision transformer run on the tokens of each window alone."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.anatomy.exceptions import refusal
from tether.models.anatomy.parts import Layout, TokenStream
from tether.models.anatomy.pooling import TokenPooling
from tether.models.anatomy.tower import TowerAnatomy
from tether.models.blocks.grid import Grid


@checked
def window_masks(grid: tuple[int, int], *, side: Count, stride: Count = 1) -> Int[Tensor, "k n"]:
    """The patches of each window that fits into a grid, windows and patches row by row from the top left.

    Args:
        grid: rows and columns of patches.
        side: patches of a window's side.
        stride: patches from one window to the next.

    Returns:
        (side * side, n) a window in each column.

    Raises:
        InputError: a grid smaller than a window.

    Example:
        >>> from tether.models.token_windows import window_masks
        >>> window_masks((2, 3), side=2).T.tolist()
        [[0, 1, 3, 4], [1, 2, 4, 5]]
    """
    if min(grid) < side:
        raise InputError(f"windows: expected a grid of {side} x {side} patches at least, got {grid[0]} x {grid[1]}")
    places = torch.arange(grid[0] * grid[1], dtype=torch.float64).view(1, 1, *grid)
    return F.unfold(places, side, stride=stride)[0].long()


@checked
def window_embeddings(
    tower: TowerAnatomy, stream: TokenStream, *, masks: Int[Tensor, "k n"], batch_size: Count = 128
) -> Float[Tensor, "b n d"]:
    """Embed each window of images: no token sees beyond its window, and each keeps its position in the image.

    The class token goes along where the tower has one. Source: arXiv 2303.14814, section 4.2.

    Args:
        tower: a vision transformer, as ``anatomy.find.anatomy_of`` gives it.
        stream: what enters its first block, as ``tower.embed(images)`` gives it.
        masks: as ``window_masks`` gives them.
        batch_size: windows in one forward.

    Raises:
        UnsupportedModelError: a tower without blocks, or one whose patches cannot be left out.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.anatomy.find import anatomy_of
        >>> from tether.models.token_windows import window_embeddings, window_masks
        >>> tower = anatomy_of(create("tiny").eval())
        >>> stream = tower.embed(torch.rand(2, 3, 32, 32))
        >>> window_embeddings(tower, stream, masks=window_masks((4, 4), side=3)).shape
        torch.Size([2, 4, 64])
    """
    grid = stream.layout.grid
    one_for_all = isinstance(tower.pooling, TokenPooling) and not tower.prefix
    if grid is None or one_for_all or stream.x.shape[1] != tower.prefix + grid[0] * grid[1]:
        raise refusal("no dropping", f"the tower is of class {tower.opened().what}")
    images, windows = len(stream.x), masks.shape[1]
    keep = masks.T.to(stream.x.device)
    rows = torch.arange(images * windows, device=stream.x.device)
    found = []
    for some in rows.split(batch_size):
        image, window = some // windows, keep[some % windows]
        x = stream.x[image[:, None], F.pad(window + tower.prefix, (tower.prefix, 0))]
        x[:, : tower.prefix] = stream.x[image, : tower.prefix]
        found.append(tower.read_out(tower.run(replace(stream, x=x, layout=_layout(tower, stream, image, window)))))
    return torch.cat(found).unflatten(0, (images, windows))


def _layout(tower: TowerAnatomy, stream: TokenStream, image: Int[Tensor, " m"], window: Int[Tensor, "m k"]) -> Layout:
    layout = tower.layout_of(replace(stream.layout, reads=stream.layout.reads[image]), window)
    if isinstance(layout.turn, Grid):  # of our own towers, whose blocks look places up in it
        layout = replace(layout, turn=replace(layout.turn, keep=window), grid=None)
    return layout
