"""Crops of an image's tokens in the middle of a tower: a part seen larger, which still knows the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.models.features.parts import Layout, TokenStream
from tether.models.features.tower import TowerAnatomy
from tether.models.refusals import refusal


def feature_crops(
    tokens: Float[Tensor, "n w"],
    *,
    centres: Int[Tensor, " k"],
    sizes: Int[Tensor, " k"] | Int[Tensor, "k 2"],
    grid: tuple[int, int] | None = None,
    prefix: int = 1,
) -> Float[Tensor, "k n w"]:
    """Windows of a map of tokens, each resized bicubically to the whole map, behind the unchanged leading tokens.

    A window reaches ``size // 2`` tokens from its centre to each side and ends at the map's border.

    Source: arXiv 2505.13233 and its released ``clip/model.py``, which has square maps.

    Args:
        tokens: of one image, leading tokens first, then row by row.
        centres: index of each window's central token, ``row * columns + column``.
        sizes: of each window in tokens, for both axes or for rows and columns.
        grid: rows and columns of the map; None is a square.
        prefix: leading tokens that are no patches, such as the class token.

    Raises:
        InputError: a map of another size, or a centre outside it.

    Example:
        >>> import torch
        >>> from tether.methods.abs.token_crops import feature_crops
        >>> crops = feature_crops(torch.rand(17, 8), centres=torch.tensor([5, 15]), sizes=torch.tensor([2, 3]))
        >>> crops.shape  # a class token and 4 x 4 patches
        torch.Size([2, 17, 8])
    """
    patches = len(tokens) - prefix
    rows, columns = grid or (round(max(patches, 0) ** 0.5),) * 2
    if rows * columns != patches or not patches:
        raise InputError(f"grid: expected {patches} tokens beside {prefix} leading ones, got {rows} x {columns}")
    if len(sizes) != len(centres) or (sizes.ndim == 2 and sizes.shape[1] != 2):
        raise InputError(f"sizes: expected one or two for each of {len(centres)} centres, got {tuple(sizes.shape)}")
    outside = (centres < 0) | (centres >= patches)
    if outside.any() or (sizes < 0).any():
        raise InputError(f"expected centres from 0 to {patches - 1} and sizes from 0, got {centres.tolist()}, {sizes}")
    image = tokens[prefix:].unflatten(0, (rows, columns)).permute(2, 0, 1)[None]
    half = (sizes[:, None].expand(-1, 2) if sizes.ndim == 1 else sizes) // 2
    crops = []
    for centre, (down, across) in zip(centres.tolist(), half.tolist(), strict=True):
        row, column = divmod(centre, columns)
        window = image[
            :, :, max(0, row - down) : min(rows, row + down + 1), max(0, column - across) : column + across + 1
        ]
        crops.append(F.interpolate(window, size=(rows, columns), mode="bicubic", align_corners=False))
    if not crops:
        return tokens.new_empty(0, *tokens.shape)
    patch_rows = torch.cat(crops).flatten(2).transpose(1, 2)
    return torch.cat([tokens[:prefix].expand(len(crops), -1, -1), patch_rows], dim=1)


def map_grid(stream: TokenStream, tower: TowerAnatomy) -> tuple[int, int]:
    """Rows and columns of a stream's patches.

    Raises:
        UnsupportedModelError: it has no whole map of them.
    """
    grid = stream.layout.grid
    if grid is None or stream.x.shape[1] != tower.prefix + grid[0] * grid[1]:
        raise refusal("no dropping", f"the tower is of class {tower.what}")
    return grid


def run_rows(
    tower: TowerAnatomy, stream: TokenStream, rows: Iterator[Float[Tensor, "k n w"]], *, layer: int, batch_size: int
) -> Float[Tensor, "m d"]:
    """Embeddings of streams that enter a block, such as crops of other streams, however many come at a time.

    Args:
        tower: of all of them.
        stream: one from this tower, whose layout counts for each of them.
        rows: their states.
        layer: the block.
        batch_size: streams in one forward.
    """

    def embedded(x: Tensor) -> Tensor:
        first = stream.layout.reads[:1].expand(len(x))
        own = TokenStream(x, replace(_shared(stream.layout, len(stream.x)), reads=first))
        return tower.read_out(tower.run(own, layer))

    done, waiting, held = list[Tensor](), list[Tensor](), 0
    for some in rows:
        waiting.append(some)
        held += len(some)
        if held >= batch_size:
            *full, rest = _batches(torch.cat(waiting), batch_size)
            done += [embedded(batch) for batch in full]
            waiting, held = [rest], len(rest)
    done += [embedded(batch) for batch in torch.cat(waiting).split(batch_size)] if held else []
    return torch.cat(done)


def _batches(rows: Tensor, batch_size: int) -> list[Tensor]:
    """Whole batches, and what is left, which may be nothing."""
    whole = len(rows) // batch_size * batch_size
    return [*(rows[:whole].split(batch_size) if whole else ()), rows[whole:]]


def _shared(layout: Layout, batch: int) -> Layout:
    """A layout without what belongs to single rows of a batch: an image's are alike."""
    bias = layout.bias
    bias = bias[:1] if bias is not None and bias.ndim == 4 and len(bias) == batch else bias
    return replace(layout, bias=bias, ids=None, seen=None)
