"""Embeddings of small windows of an image: a vision transformer run on the tokens of each window alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.features.parts import Layout, TokenStream, WholeBlock
from tether.models.features.pooling import TokenPooling
from tether.models.features.tower import TowerAnatomy
from tether.models.refusals import refusal
from tether.models.towers.blocks.grid import Grid


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
        >>> from tether.methods.winclip.token_windows import window_masks
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

    The class token goes along where the tower has one. What the first block asks of a token alone is asked once, and
    the last block is run for the token that is read alone. Source: arXiv 2303.14814, section 4.2.

    Args:
        tower: a vision transformer, as ``models.features.find.anatomy_of`` gives it.
        stream: what enters its first block, as ``tower.embed(images)`` gives it.
        masks: as ``window_masks`` gives them.
        batch_size: windows in one forward.

    Raises:
        UnsupportedModelError: a tower without blocks, or one whose patches cannot be left out.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.find import anatomy_of
        >>> from tether.methods.winclip.token_windows import window_embeddings, window_masks
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
    leading = torch.arange(tower.prefix, device=keep.device).expand(windows, -1)
    places = torch.cat([leading, keep + tower.prefix], dim=1)
    first = _first_qkv(tower, stream)
    last = type(tower.pooling) is TokenPooling and _in_pieces(tower, stream, -1)
    found = []
    for some in torch.arange(images * windows, device=keep.device).split(batch_size):
        image, window = some // windows, some % windows
        taken = image[:, None], places[window]
        part = replace(stream, x=stream.x[taken], layout=_layout(tower, stream, image, keep[window]))
        if first:
            part = _block(tower, part, 0, qkv=[rows[taken].transpose(1, 2) for rows in first])
        part = tower.run(part, start=1 if first else 0, stop=-1 if last else None)
        found.append(tower.read_out(_block(tower, part, len(tower.blocks) - 1, read=True) if last else part))
    return torch.cat(found).unflatten(0, (images, windows))


def _layout(tower: TowerAnatomy, stream: TokenStream, image: Int[Tensor, " m"], window: Int[Tensor, "m k"]) -> Layout:
    layout = tower.layout_of(replace(stream.layout, reads=stream.layout.reads[image]), window)
    if isinstance(layout.turn, Grid):  # of our own towers, whose blocks look places up in it
        layout = replace(layout, turn=replace(layout.turn, keep=window), grid=None)
    return layout


def _in_pieces(tower: TowerAnatomy, stream: TokenStream, index: int) -> bool:
    """Whether the first or last of several blocks can be run by its pieces."""
    return len(tower.blocks) > 1 and stream.layout.bias is None and not isinstance(tower.blocks[index], WholeBlock)


def _first_qkv(tower: TowerAnatomy, stream: TokenStream) -> list[Float[Tensor, "b n h e"]]:
    """Queries, keys and values of the first block, which are the same in every window that a token is in."""
    if not _in_pieces(tower, stream, 0):
        return []
    block = tower.blocks[0]
    qkv = block.qkv(block.norm1(stream.x), tower.layout_at(stream.layout, 0))
    return [rows.transpose(1, 2) for rows in qkv]


def _block(
    tower: TowerAnatomy, stream: TokenStream, index: int, *, qkv: Sequence[Tensor] | None = None, read: bool = False
) -> TokenStream:
    """The stream after one block, by its pieces.

    Args:
        tower: whose block it is.
        stream: before it.
        index: of the block.
        qkv: what its attention takes; None asks the block.
        read: whether the token that is read is all that is wanted.
    """
    block, layout, x = tower.blocks[index], tower.layout_at(stream.layout, index), stream.x
    queries, keys, values = block.qkv(block.norm1(x), layout) if qkv is None else qkv
    if read:
        queries = layout.read(queries.transpose(1, 2))[:, :, None]
        x = layout.read(x)[:, None]
    x = x + block.project(block.attend(queries, keys, values, None))
    x = x + block.feed_forward(x, layout)
    return replace(stream, x=x, layout=replace(stream.layout, reads=layout.reads * 0) if read else stream.layout)
