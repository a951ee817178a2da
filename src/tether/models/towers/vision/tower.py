"""A vision transformer with a class token: embed, blocks, readout."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.geometry import GeometryName
from tether.core.types import Features
from tether.models.towers.blocks.grid import Grid
from tether.models.towers.blocks.layers import NORMS, Linear
from tether.models.towers.blocks.trace import Trace
from tether.models.towers.config import VisionConfig
from tether.models.towers.tower import Tower, Want


def cut_patches(
    image: Tensor, *, side: int, grid: tuple[int, int], keep: Int[Tensor, "b k"] | None
) -> Shaped[Tensor, "b n c side side"]:
    """The squares of a grid, row by row from the top left, or those of them that are kept."""
    rows, columns = grid
    cut = image.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
    if keep is None:
        return cut.flatten(1, 2)
    down, across = keep.div(columns, rounding_mode="floor"), keep.remainder(columns)
    return cut[torch.arange(len(keep), device=image.device)[:, None], down, across]


class VisionTower(Tower):
    """Cuts an image into patches and lets a class token read them (arXiv 2010.11929; CLIP's form, 2103.00020).

    Token 0 is the class token, token 1 + i is
    patch i, row by row from the top left.
    """

    def __init__(self, config: VisionConfig, *, dim: int, geometry: GeometryName = "clip") -> None:
        """Build the layers; weights stay unset until ``initialise_`` or ``load_state_dict``."""
        super().__init__()
        self.config = config
        patches = config.grid[0] * config.grid[1]
        self.patch = Linear(3 * config.patch**2, config.width, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.position = nn.Parameter(torch.empty(patches + 1, config.width))
        first = config.blocks[0]
        self.norm_pre = NORMS[first.norm](config.width, eps=first.norm_eps)
        self.build_stack_(config, dim=dim, geometry=geometry)

    @property
    def takes_images(self) -> bool:
        """Whether it reads pixels, and not only what another model made of them."""
        return True

    def initialise_(self, generator: torch.Generator) -> None:
        """Draw every weight: normal with CLIP's scales (arXiv 2103.00020, released text tower) on both towers."""
        scale = self.config.width**-0.5
        nn.init.normal_(self.patch.weight, std=self.patch.in_features**-0.5, generator=generator)
        nn.init.normal_(self.class_token, std=scale, generator=generator)
        nn.init.normal_(self.position, std=scale, generator=generator)
        self.initialise_stack_(generator)

    @property
    def side(self) -> int:
        """Side of a patch in what the tower reads."""
        return self.config.patch

    def patches(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b n c"]:
        """Normalised patches as rows (channel, row, column), of which only those in ``keep`` are ever made."""
        expected = (3, *self.config.image.size)
        if image.ndim != 4 or tuple(image.shape[1:]) != expected:
            raise InputError(
                f"image: expected (b, {', '.join(map(str, expected))}), got {tuple(image.shape)}; for another size "
                "take model.resized(image_size=...)"
            )
        kept = cut_patches(image, side=self.side, grid=self.config.grid, keep=keep)
        return self.config.image.normalise(kept, dtype=self.patch.weight.dtype).flatten(2)

    def embed(self, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b n w"]:
        """Pixels to the stream that enters block 0: the class token, then the patches that are kept."""
        tokens = self.patch(self.patches(image, keep=keep))
        first = (self.class_token + self.position[0]).to(tokens.dtype).expand(image.shape[0], 1, -1)
        where = self.position[1:] if keep is None else self.position[1:][keep]
        return self.norm_pre(torch.cat([first, tokens + where.to(tokens.dtype)], dim=1))

    def forward(
        self,
        image: Tensor,
        *,
        mask: Bool[Tensor, "b n"] | None = None,
        keep: Int[Tensor, "b k"] | None = None,
        want: Want = "pooled",
        trace: Trace | None = None,
    ) -> Features:
        """See ``Clip.encode_image``."""
        x = self.embed(image, keep=keep)
        bias, seen = None, None
        if mask is not None:
            expected = (len(image), math.prod(self.config.grid))
            if mask.dtype != torch.bool or tuple(mask.shape) != expected:
                raise InputError(f"mask: expected bool {expected}, got {mask.dtype} {tuple(mask.shape)}")
            if keep is not None:
                mask = mask.gather(1, keep)
            seen = torch.cat([mask.new_ones(len(image), 1), mask], dim=1)
            bias = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, -math.inf)[:, None, None]
        grid = Grid(*self.config.grid, before=1, keep=keep, seen=mask)
        x, extra = self.run(
            x,
            pool="first" if want == "pooled" else "all",
            bias=bias,
            last_bias=bias,
            real=seen,
            causal=False,
            grid=grid,
            trace=trace,
        )
        pooled = self.project(x[:, 0])
        return Features(pooled, extra=extra) if want == "pooled" else Features(pooled, x, seen, extra)
