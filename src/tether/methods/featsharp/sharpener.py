"""Fine maps of an encoder's patches, from the whole image and from its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.methods.featsharp.fuse import FusionBlock, Input
from tether.methods.featsharp.tiles import BiasBuffer, create_tiles
from tether.models.features.dense import DensePath, dense_tokens
from tether.models.features.find import tower_of

Patches = Literal["values", "tokens"]
"""Patches that keep their own value in the last block (MaskCLIP), or as they leave the tower."""
WindowSide = Annotated[int, Ge(1), Le(63)]
"""Of a window, in places; memory grows with its square."""


class Sharpener(nn.Module):
    """Learnt parts of FeatSharp (arXiv 2502.16025): statistics of patches, their bias, and the block that fuses.

    Maps are standardised, so that each channel has a variance of one, and lose what the encoder says of a place
    whatever stands there. The block makes one fine map of the two. At first it gives the enlarged map.

    Attributes:
        settings: of the constructor.
        mean: (c,) of patches, see ``methods.featsharp.phi_s.PhiS``.
        alpha: (), their scale.
        rotation: (c, c), their rotation.
        bias: of places.
        block: that fuses.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.featsharp import Sharpener
        >>> model = create("tiny").eval()  # 4 x 4 patches
        >>> low, fine = Sharpener(model.dim, grid=(4, 4))(model, torch.rand(2, 3, 64, 64))
        >>> low.shape, fine.shape
        (torch.Size([2, 64, 4, 4]), torch.Size([2, 64, 8, 8]))
    """

    mean: Tensor
    alpha: Tensor
    rotation: Tensor

    @checked
    def __init__(
        self,
        channels: Count,
        *,
        grid: tuple[Count, Count],
        factor: Count = 2,
        inputs: Sequence[Input] = ("bilinear", "tiles"),
        heads: Count = 16,
        window: WindowSide = 7,
        patches: Patches = "values",
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the block.

        Args:
            channels: of the maps.
            grid: rows and columns of the map of an image of the encoder's size.
            factor: fine maps have so many times the rows and columns; 1 takes noise away alone.
            inputs: see ``FusionBlock``.
            heads: see there.
            window: see there.
            patches: what of the encoder the maps are.
            generator: of the draw, on the CPU.
        """
        super().__init__()
        self.settings = {
            "channels": channels,
            "grid": list(grid),
            "factor": factor,
            "inputs": list(inputs),
            "heads": heads,
            "window": window,
            "patches": patches,
        }
        self.factor, self.patches = factor, patches
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("alpha", torch.ones(()))
        self.register_buffer("rotation", torch.eye(channels))
        self.bias = BiasBuffer(channels, grid=grid)
        self.block = FusionBlock(
            channels, factor=factor, inputs=inputs, heads=heads, window=window, generator=generator
        )

    def standardise(self, maps: Float[Tensor, "b c r s"]) -> Float[Tensor, "b c r s"]:
        """Maps of the encoder's in channels of a variance of one, without the bias of places."""
        centred = (maps - self.mean[:, None, None]) * self.alpha
        return self.bias(torch.einsum("dc,bcrs->bdrs", self.rotation, centred))

    def restore(self, maps: Float[Tensor, "b c r s"]) -> Float[Tensor, "b c r s"]:
        """Standardised maps in the encoder's space, where texts are; the bias stays away."""
        return torch.einsum("dc,bdrs->bcrs", self.rotation, maps) / self.alpha + self.mean[:, None, None]

    def standardised(self, model: DualEncoder, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The low map and that of the tiles, see ``create_tiles``; with gradient to the bias, the model rests.

        The tiles are not looked at, and their map is None, where the block has no use for them.
        """

        def encode(image: Tensor) -> Tensor:
            with torch.no_grad():
                maps = patch_maps(model, image, patches=self.patches)
            return self.standardise(maps)

        size = model.image_spec.size
        if "tiles" not in self.block.inputs:
            return create_tiles(images, encode, size=size, factor=1)[0], None
        return create_tiles(images, encode, size=size, factor=self.factor)

    def forward(
        self, model: DualEncoder, images: Tensor, *, denormalize: bool = True
    ) -> tuple[Float[Tensor, "b c r s"], Float[Tensor, "b c R S"]]:
        """The low and the fine map of images.

        Args:
            model: that it was trained for.
            images: (b, 3, h, w) of any size, uint8 pixels or normalised floats; it looks at ``factor`` times the
                model's size.
            denormalize: give them in the encoder's space; needed to compare them with texts.
        """
        low, tiles = self.standardised(model, images)
        high = self.block(low, tiles)
        return (self.restore(low), self.restore(high)) if denormalize else (low, high)


def patch_maps(model: DualEncoder, image: Tensor, *, patches: Patches = "values") -> Float[Tensor, "b c r s"]:
    """The patches of images of the model's size as a map in the joint space, not normalised.

    Args:
        model: any that ``models.features.dense.dense_tokens`` takes; a network of convolutions has ``tokens`` alone,
            and gives them for either.
        image: (b, 3, h, w) uint8 pixels or normalised floats.
        patches: see ``Patches``.
    """
    tower = tower_of(model)
    path = DensePath() if patches == "values" and tower.sealed is None else None
    tokens = dense_tokens(model, image.to(model.logit_scale.device), path=path)
    count, (height, width) = tokens.shape[1], model.image_spec.size
    rows = max(1, round((count * height / width) ** 0.5)) if tower.sealed is not None else tower.grid(image)[0]
    return tokens.transpose(1, 2).unflatten(2, (rows, count // rows))
