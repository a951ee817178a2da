"""Which patches of an image belong together, and which to no thing, told from inside an encoder (CLIP-DINOiser)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Layer, checked
from tether.models.features.dense import DensePath, tokens_from
from tether.models.features.find import tower_of
from tether.models.features.parts import TokenStream
from tether.models.features.penultimate import grid_of, inner_patches
from tether.models.features.tower import TowerAnatomy

THIRD_FROM_THE_END = -3


@dataclass(frozen=True, slots=True)
class InnerAndTokens:
    """One pass of an image tower.

    Attributes:
        tokens: (b, n, d) patches in the joint space, each kept to itself in the last block, not normalised.
        inner: (b, w, r, c) the patches halfway through an earlier block.
    """

    tokens: Float[Tensor, "b n d"]
    inner: Float[Tensor, "b w r c"]


def inner_and_tokens(model: DualEncoder, image: Tensor, *, layer: Layer = THIRD_FROM_THE_END) -> InnerAndTokens:
    """What CLIP-DINOiser reads of images: MaskCLIP's patches, and what the feed-forward net of a block reads.

    Of a tower that shows its last states alone, such as a network of convolutions, these states are both.

    Args:
        model: any model that ``tether.load`` gives, but those whose image tower shows neither tokens nor a map.
        image: (b, 3, h, w) uint8 pixels or normalised floats.
        layer: the block; negative from the end. A tower with fewer blocks takes its first.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.
        InputError: no such layer, counted from the front.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.patch_grouping import inner_and_tokens
        >>> found = inner_and_tokens(create("tiny").eval(), torch.rand(2, 3, 32, 32))
        >>> found.tokens.shape, found.inner.shape
        (torch.Size([2, 16, 64]), torch.Size([2, 64, 4, 4]))
    """
    tower = tower_of(model)
    inner, stream, block = _inner(tower, image, layer)
    return InnerAndTokens(tokens_from(tower, stream, first=block, path=DensePath() if _open(tower) else None), inner)


def inner_map(model: DualEncoder, image: Tensor, *, layer: Layer = THIRD_FROM_THE_END) -> Float[Tensor, "b w r c"]:
    """The ``inner`` of ``inner_and_tokens`` alone; blocks behind it are not run."""
    return _inner(tower_of(model), image, layer)[0]


def _open(tower: TowerAnatomy) -> bool:
    return bool(tower.blocks) and tower.sealed is None


def _inner(tower: TowerAnatomy, image: Tensor, layer: int) -> tuple[Float[Tensor, "b w r c"], TokenStream, int]:
    """The map, the stream that enters its block, and the block's index."""
    stream, block = tower.embed(image), 0
    grid = grid_of(tower, stream, size=(image.shape[2], image.shape[3]))
    inner = stream.x[:, tower.prefix :]
    if _open(tower):
        block = tower.place(max(layer, -len(tower.blocks)))
        stream = tower.run(stream, stop=block)
        inner = inner_patches(tower, stream, block=block)
    return inner.transpose(1, 2).unflatten(2, grid), stream, block


class DinoiserHead(nn.Module):
    """One convolution says which patches are alike, another which belong to a thing; an encoder's inner patches go in.

    Source: CLIP-DINOiser (arXiv 2312.12359), sections 3.2 and 3.3, and its released code: a 3 x 3 convolution that
    repeats the edge, and a 1 x 1 convolution of patches of length 1.

    Attributes:
        features: channels that go in.
        dim: of the keys.

    Example:
        >>> import torch
        >>> from tether.models.features.patch_grouping import DinoiserHead
        >>> head = DinoiserHead(features=64, dim=32)
        >>> inner = torch.randn(2, 64, 4, 4)
        >>> head.keys(inner).shape, head.things(inner).shape
        (torch.Size([2, 16, 32]), torch.Size([2, 1, 4, 4]))
    """

    @checked
    def __init__(
        self, *, features: Count, dim: Count = 256, kernel: Count = 3, generator: torch.Generator | None = None
    ) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            features: channels of the inner patches.
            dim: of the keys.
            kernel: side of the first convolution, odd.
            generator: of the weights.

        Raises:
            InputError: an even kernel.
        """
        super().__init__()
        if kernel % 2 == 0:
            raise InputError(f"kernel: expected an odd number, got {kernel}")
        self.features, self.dim, self.kernel = features, dim, kernel
        more = {"padding": kernel // 2, "padding_mode": "replicate"}
        self.obj_proj = cast(nn.Conv2d, skip_init(nn.Conv2d, features, dim, kernel, **more))
        self.bkg_decoder = cast(nn.Conv2d, skip_init(nn.Conv2d, features, 1, 1))
        for layer in (self.obj_proj, self.bkg_decoder):
            bound = layer.weight[0].numel() ** -0.5  # torch's own start of a convolution
            for parameter in (layer.weight, layer.get_parameter("bias")):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def keys(self, inner: Float[Tensor, "b w r c"]) -> Float[Tensor, "b n k"]:
        """Rows of length 1, whose products say how alike patches are."""
        return F.normalize(self.obj_proj(self._checked(inner)).flatten(2).transpose(1, 2), dim=2)

    def things(self, inner: Float[Tensor, "b w r c"]) -> Float[Tensor, "b 1 r c"]:
        """Logits that a patch belongs to a thing and not to the background."""
        return self.bkg_decoder(F.normalize(self._checked(inner), dim=1))

    def forward(self, inner: Float[Tensor, "b w r c"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b 1 r c"]]:
        """``keys`` and ``things``."""
        return self.keys(inner), self.things(inner)

    def _checked(self, inner: Tensor) -> Tensor:
        if inner.ndim != 4 or inner.shape[1] != self.features:
            raise InputError(f"inner: expected (b, {self.features}, r, c), got {tuple(inner.shape)}")
        return inner
