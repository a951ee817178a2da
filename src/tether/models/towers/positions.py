"""Learned positions at another size: tables of a grid and of a line, fixed tables, and the kernels that cut patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, Whole, checked
from tether.core.registry import Registry
from tether.core.runtime_protocol import ByAttributes

Pair = tuple[int, int]
Mode = Literal["bicubic", "bilinear"]


def resize_grid(
    table: Float[Tensor, "*b n w"],
    *,
    old: Pair,
    new: Pair,
    mode: Mode = "bicubic",
    antialias: bool = True,
    align_corners: bool = False,
) -> Float[Tensor, "*b m w"]:
    """A table of positions, row by row from the top left, interpolated to another grid.

    With the defaults it is timm's ``resample_abs_pos_embed`` and open_clip's ``resize_pos_embed``; without antialias
    transformers' ``interpolate_pos_encoding``; EVA's helper for OpenAI's towers aligns the corners.

    Args:
        table: prefix + rows * columns vectors; those of the prefix (class token, registers) stay as they are.
        old: rows and columns of the grid now.
        new: rows and columns to come.
        mode: of interpolation.
        antialias: smooth before a grid becomes smaller.
        align_corners: the outer positions stay where they are, and not the edges of the image.

    Example:
        >>> import torch
        >>> from tether.models.towers.positions import resize_grid
        >>> resize_grid(torch.randn(1 + 4 * 4, 8), old=(4, 4), new=(6, 3)).shape
        torch.Size([19, 8])
    """
    prefix = table.shape[-2] - old[0] * old[1]
    if prefix < 0 or min(*old, *new) < 1:
        raise InputError(f"table: {table.shape[-2]} vectors are no grid of {old} that can become {new}")
    if old == new:
        return table
    first, rest = table[..., :prefix, :], table[..., prefix:, :]
    grid = _exact(rest).reshape(-1, *old, table.shape[-1]).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=new, mode=mode, antialias=antialias, align_corners=align_corners)
    rest = grid.permute(0, 2, 3, 1).reshape(*table.shape[:-2], new[0] * new[1], table.shape[-1])
    return torch.cat([first, rest.to(table.dtype)], dim=-2)


def resize_line(table: Float[Tensor, "*b n w"], *, length: int, align_corners: bool = False) -> Float[Tensor, "*b m w"]:
    """A text's table of positions, interpolated linearly to another length, as open_clip's ``resize_text_pos_embed``.

    Example:
        >>> import torch
        >>> from tether.models.towers.positions import resize_line
        >>> resize_line(torch.tensor([[0.0], [1.0]]), length=4).flatten().tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if table.shape[-2] == length:
        return table
    line = _exact(table).reshape(-1, *table.shape[-2:]).transpose(1, 2)
    line = F.interpolate(line, size=length, mode="linear", align_corners=align_corners)
    return line.transpose(1, 2).reshape(*table.shape[:-2], length, table.shape[-1]).to(table.dtype)


@checked
def stretch(table: Float[Tensor, "*b n w"], *, keep: Whole = 20, ratio: Count = 4) -> Float[Tensor, "*b m w"]:
    """A text's table of positions whose first vectors stay and whose others are spread out (arXiv 2403.15378).

    Short texts, which use the first alone, read as before. Vector keep + ratio * i + r lies r / ratio of the way from
    the old vector keep + i to the next; past the last one the way goes on straight.

    Args:
        table: n vectors.
        keep: those that stay, at most n - 2.
        ratio: vectors for each of the others.

    Returns:
        ``keep + ratio * (n - keep)`` vectors: 248 of 77 with the defaults.

    Example:
        >>> import torch
        >>> from tether.models.towers.positions import stretch
        >>> stretch(torch.tensor([[0.0], [1.0], [2.0], [4.0]]), keep=1, ratio=2).flatten().tolist()
        [0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    """
    count = table.shape[-2]
    if keep > count - 2:
        raise InputError(f"keep: expected at most {count - 2} of {count} vectors, got {keep}")
    exact = _exact(table)
    place = torch.arange(ratio * (count - keep), device=table.device)
    from_ = (keep + place // ratio).clamp(max=count - 2)
    share = (place - ratio * (from_ - keep)).to(exact.dtype)[:, None] / ratio
    rest = torch.lerp(exact[..., from_, :], exact[..., from_ + 1, :], share)
    return torch.cat([table[..., :keep, :], rest.to(table.dtype)], dim=-2)


def sincos_grid(grid: Pair, *, width: int, order: Literal["torch", "jax"] = "torch") -> Float[Tensor, "n w"]:
    """The fixed table of sines and cosines of a grid, row by row: of the column, then of the row, a quarter each.

    The frequencies fall from 1 to 1/10,000: in MAE's code (torch) the last is not reached, in big_vision's (jax) it is.

    Args:
        grid: rows and columns.
        width: of a vector, a multiple of 4; at least 8 in the order of JAX.
        order: whose frequencies.

    Returns:
        (rows * columns, width) float64.
    """
    quarter = width // 4
    if width % 4 or quarter < (1 if order == "torch" else 2):
        raise InputError(f"sincos: expected a width that is a multiple of 4 (jax: at least 8), got {width}")
    steps = quarter if order == "torch" else quarter - 1
    rate = 10_000 ** (-torch.arange(quarter, dtype=torch.float64) / steps)
    row, column = (place.flatten()[:, None] * rate for place in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)


def sine_grid(grid: Pair, *, width: int, whole: float = 2 * math.pi) -> Float[Tensor, "n w"]:
    """DETR's table of sines and cosines of a grid, row by row: of the row, then of the column, half of the width each.

    Places run to ``whole`` on each axis whatever the grid, so maps of other sizes need no resizing.

    Args:
        grid: rows and columns.
        width: of a vector, a multiple of 4.
        whole: what the last row and column stand for.

    Returns:
        (rows * columns, width) float32, as in the released codes, whose figures this arithmetic gives.
    """
    if width % 4 or width < 4:
        raise InputError(f"sine positions: expected a width that is a multiple of 4, got {width}")
    half = width // 2
    rate = 10_000 ** (2 * torch.div(torch.arange(half, dtype=torch.float32), 2, rounding_mode="floor") / half)
    row, column = (
        (torch.arange(1, count + 1, dtype=torch.float32) / (count + 1e-6) * whole)[:, None] / rate for count in grid
    )
    row, column = (torch.stack([x[:, 0::2].sin(), x[:, 1::2].cos()], dim=2).flatten(1) for x in (row, column))
    both = [row[:, None].expand(-1, grid[1], -1), column[None].expand(grid[0], -1, -1)]
    return torch.cat(both, dim=2).flatten(0, 1)


def resize_kernel(
    weight: Float[Tensor, "o c h w"],
    *,
    new: Pair,
    kernel: Literal["inverse", "plain"] = "inverse",
    mode: Mode = "bicubic",
    antialias: bool = True,
) -> Float[Tensor, "o c H W"]:
    """The kernel that makes tokens of patches, for patches of another size.

    Args:
        weight: of the convolution.
        new: height and width of the patches to come.
        kernel: ``inverse``, by the pseudo-inverse of the resizing, so that a patch that is resized with its kernel
            gives the same token (FlexiViT, arXiv 2212.08013; timm's ``resample_patch_embed``); or ``plain``, the
            kernel resized like an image (EVA).
        mode: of interpolation.
        antialias: smooth before it becomes smaller.
    """
    old = (weight.shape[-2], weight.shape[-1])
    if old == new:
        return weight
    exact = _exact(weight)
    if kernel == "plain":
        return F.interpolate(exact, size=new, mode=mode, antialias=antialias).to(weight.dtype)
    cells = torch.eye(old[0] * old[1], dtype=exact.dtype, device=weight.device).reshape(-1, 1, *old)
    resizing = F.interpolate(cells, size=new, mode=mode, antialias=antialias).flatten(1).T
    found = exact.flatten(2) @ torch.linalg.pinv(resizing)
    return found.reshape(*weight.shape[:2], *new).to(weight.dtype)


def _exact(table: Tensor) -> Tensor:
    """In the precision of the sums: float64 stays, all else is float32."""
    return table if table.dtype == torch.float64 else table.float()


@runtime_checkable
class GridMethod(Protocol, metaclass=ByAttributes):
    """How an image tower's positions and patches change."""

    def table(self, table: Tensor, *, old: Pair, new: Pair) -> Tensor:
        """Positions, (..., prefix + rows * columns, width)."""
        ...

    def kernel_of(self, weight: Tensor, *, new: Pair) -> Tensor:
        """The kernel of the patches, (width, channels, height, width)."""
        ...


@runtime_checkable
class LineMethod(Protocol, metaclass=ByAttributes):
    """How a text tower's positions change."""

    def line(self, table: Tensor, *, length: int) -> Tensor:
        """Positions, (n, width)."""
        ...


@checked
@dataclass(frozen=True, kw_only=True)
class Bicubic:
    """Interpolate grid and kernel by cubic curves; see ``resize_grid`` and ``resize_kernel``."""

    mode: ClassVar[Mode] = "bicubic"
    antialias: bool = True
    align_corners: bool = False
    kernel: Literal["inverse", "plain"] = "inverse"

    def table(self, table: Tensor, *, old: Pair, new: Pair) -> Tensor:
        """See ``GridMethod``."""
        return resize_grid(
            table, old=old, new=new, mode=self.mode, antialias=self.antialias, align_corners=self.align_corners
        )

    def kernel_of(self, weight: Tensor, *, new: Pair) -> Tensor:
        """See ``GridMethod``."""
        return resize_kernel(weight, new=new, kernel=self.kernel, mode=self.mode, antialias=self.antialias)


class Bilinear(Bicubic):
    """Interpolate grid and kernel linearly, with the settings of ``bicubic``."""

    mode: ClassVar[Mode] = "bilinear"


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class SinCosPositions:
    """Compute the grid's table anew, for towers with fixed sines and cosines; see ``sincos_grid``.

    The prefix stays, and kernels change as by ``bicubic``.
    """

    order: Literal["torch", "jax"] = "torch"

    def table(self, table: Tensor, *, old: Pair, new: Pair) -> Tensor:
        """See ``GridMethod``."""
        prefix = table[..., : table.shape[-2] - old[0] * old[1], :]
        fixed = sincos_grid(new, width=table.shape[-1], order=self.order).to(table)
        return torch.cat([prefix, fixed.expand(*table.shape[:-2], -1, -1)], dim=-2)

    def kernel_of(self, weight: Tensor, *, new: Pair) -> Tensor:
        """See ``GridMethod``."""
        return resize_kernel(weight, new=new)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPositions:
    """Interpolate a text's positions linearly, to more or fewer; see ``resize_line``."""

    align_corners: bool = False

    def line(self, table: Tensor, *, length: int) -> Tensor:
        """See ``LineMethod``."""
        return resize_line(table, length=length, align_corners=self.align_corners)


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class StretchedPositions:
    """Keep a text's first positions and spread out the others; see ``stretch``.

    Attributes:
        keep: positions that stay; default min(20, n // 3) of n.
        ratio: positions for each of the others; the least that is enough if None. What is too many is cut.
    """

    keep: Whole | None = None
    ratio: Count | None = None

    def line(self, table: Tensor, *, length: int) -> Tensor:
        """See ``LineMethod``."""
        count = len(table)
        keep = min(20, count // 3) if self.keep is None else self.keep
        if keep > count - 2:
            raise InputError(f"how: stretch: keep: expected at most {count - 2} of {count} positions, got {keep}")
        ratio = max(1, -((keep - length) // (count - keep))) if self.ratio is None else self.ratio
        found = stretch(table, keep=keep, ratio=ratio)
        if len(found) < length:
            raise InputError(
                f"context: ratio {ratio} makes {len(found)} positions of {count}, got {length}; take a larger ratio or "
                f"at most that many (model.resized.context={len(found)})"
            )
        return found[:length]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPositions:
    """Leave out the last positions of a text: shorter texts read exactly as before."""

    def line(self, table: Tensor, *, length: int) -> Tensor:
        """See ``LineMethod``."""
        if length > len(table):
            raise InputError(f"context: cut leaves at most the {len(table)} positions that are there, got {length}")
        return table[:length]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryPositions:
    """Drop a text's table; its attention turns by place instead (arXiv 2508.02329), for Tether's own towers.

    The copy's text embeddings are no longer the original's until it has learnt to read again:
    ``adaptation.distill.distil_text`` teaches it by the original, then it trains on long captions. A text may have any
    length up to the context; its end token, wherever it stands, gives the embedding.

    Attributes:
        base: of the angles; see ``RotaryEmbedding``.
    """

    base: Positive = 10_000.0


GRIDS: Registry[Any] = Registry(
    "grids",
    {
        "bicubic": "tether.models.towers.positions:Bicubic",
        "bilinear": "tether.models.towers.positions:Bilinear",
        "sincos": "tether.models.towers.positions:SinCosPositions",
    },
)
"""Ways to change an image tower's positions and patches, by name."""

LINES: Registry[Any] = Registry(
    "lines",
    {
        "linear": "tether.models.towers.positions:LinearPositions",
        "stretch": "tether.models.towers.positions:StretchedPositions",
        "cut": "tether.models.towers.positions:CutPositions",
        "rotary": "tether.models.towers.positions:RotaryPositions",
    },
)
"""Ways to change a text tower's positions, by name."""
