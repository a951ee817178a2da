"""Images of which a part is blank: learnt vectors stand for blank patches, at the input and after the first blocks."""

from __future__ import annotations

import copy
import math
from typing import Annotated, cast, final

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import NonNegative, checked
from tether.core.types import Features
from tether.models.features.find import tower_of
from tether.models.refusals import refusal
from tether.models.towers.vision.mask_prompt_stem import MaskPromptStem, add_stem_, patch_layer, prompts_of

DEPTH = 3
"""Places with vectors of their own: the input, and after each of the first two blocks (the released code's)."""


def kept_patches(mask: Bool[Tensor, "b h w"], *, patch: int) -> Bool[Tensor, "b n"]:
    """Which patches hold at least one pixel of a mask, row by row from the top left.

    Args:
        mask: True inside.
        patch: side of a patch in pixels; what is left at the right and below is in no patch.

    Example:
        >>> import torch
        >>> from tether.methods.ovseg.mask_prompts import kept_patches
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> mask[0, 3:5, 0] = True
        >>> kept_patches(mask, patch=4).tolist()
        [[True, False, True, False]]
    """
    return F.max_pool2d(mask[:, None].float(), patch).flatten(1) > 0


@checked
def add_mask_prompts_(
    model: nn.Module,
    *,
    depth: Annotated[int, Ge(1)] = DEPTH,
    std: NonNegative = 0.02,
    generator: torch.Generator | None = None,
) -> MaskPromptStem:
    """Give an image tower mask prompts, in place; without a mask it computes what it did, bit for bit.

    ``tether.save`` and ``tether.load`` keep them, ``resized`` resizes them as positions; weights without any load, too,
    and leave them as they were drawn.

    Args:
        model: any encoder of ``tether.load`` whose image tower is a vision transformer.
        depth: places with vectors of their own, at most as many as blocks.
        std: standard deviation of the draw.
        generator: of the draw, on the CPU; torch's own if None.

    Raises:
        InputError: it has mask prompts already, or a depth of more than its blocks.
        UnsupportedModelError: no vision transformer, or one that drops patches.
    """
    if prompts_of(model) is not None:
        raise InputError(f"{type(model).__name__}: has mask prompts already")
    encoder = cast(DualEncoder, model)
    tower = tower_of(encoder).opened()
    if depth > len(tower.blocks):
        raise InputError(f"depth: expected at most {len(tower.blocks)}, the tower's blocks, got {depth}")
    patch_layer(model)
    blank = torch.zeros(1, 3, *encoder.image_spec.size, dtype=torch.uint8, device=encoder.logit_scale.device)
    with torch.no_grad():
        patches = tower.embed(blank).x.shape[1] - tower.prefix
        if patches != math.prod(tower.grid(blank)):
            raise refusal("no dropping", f"the tower is a {tower.what}")
        stem = add_stem_(model, depth=depth, patches=patches)
        drawn = std * torch.randn(stem.prompts.shape, generator=generator)
        stem.prompts.copy_(drawn)
    return stem


def encode_masked(model: DualEncoder, image: Tensor, *, mask: Tensor | None) -> Features:
    """Embed images of which only a part counts.

    A patch without any pixel of the mask is given a learnt vector of its place, before positions are added, and another
    one after each of the first blocks. The class token is left alone.

    Args:
        model: with mask prompts.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats, such as ``masked_crops`` gives.
        mask: (b, h, w) or (b, 1, h, w) bool of the images' size, True inside; None is ``model.encode_image``.

    Raises:
        InputError: a model without mask prompts, or a mask of another size or type.
    """
    stem = prompts_of(cast(nn.Module, model))
    if stem is None:
        raise InputError(f"{type(model).__name__}: has no mask prompts; expected a model with add_mask_prompts_")
    if mask is None:
        return model.encode_image(image)
    wanted = (len(image), *image.shape[2:])
    seen = mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask
    if seen.dtype != torch.bool or tuple(seen.shape) != wanted:
        raise InputError(f"mask: expected bool {wanted}, of the images' size, got {mask.dtype} {tuple(mask.shape)}")
    keep = kept_patches(seen.to(stem.prompts.device), patch=stem.patch)
    tower = tower_of(model)
    with stem.hiding(~keep):
        stream = tower.embed(image)
    for index in range(len(tower.blocks)):
        stream = tower.step(stream, index)
        if index + 1 < len(stem.prompts):
            first, rest = stream.x[:, : tower.prefix], stream.x[:, tower.prefix :]
            stream = stream.to(torch.cat([first, stem.mixed(rest, ~keep, place=index + 1)], dim=1))
    return Features(tower.read_out(stream), extra=stream.extra)


@final
class MaskPromptTower(nn.Module):
    """An encoder's image side with mask prompts (OVSeg), for images that are blank outside of a mask.

    Source: arXiv 2210.04150, section 3.4, with the depth and the draw of the released code.

    Attributes:
        model: the encoder, with prompts; ``tether.save`` writes both to one file.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.ovseg.mask_prompts import MaskPromptTower
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> tower = MaskPromptTower.from_clip(model, depth=2)
        >>> torch.equal(tower(image), model.encode_image(image).pooled)
        True
        >>> mask = torch.zeros(2, 32, 32, dtype=torch.bool)
        >>> mask[:, :16] = True
        >>> tower(image, mask).shape
        torch.Size([2, 64])
    """

    def __init__(self, model: nn.Module) -> None:
        """Args: model: an encoder with mask prompts, see ``add_mask_prompts_``."""
        super().__init__()
        if prompts_of(model) is None:
            raise InputError(f"{type(model).__name__}: has no mask prompts; expected a model with add_mask_prompts_")
        self.model = model

    @classmethod
    def from_clip(
        cls, visual: nn.Module, *, depth: int = DEPTH, std: float = 0.02, generator: torch.Generator | None = None
    ) -> MaskPromptTower:
        """A copy of an encoder with new prompts; arguments and errors as ``add_mask_prompts_``."""
        model = copy.deepcopy(visual)
        add_mask_prompts_(model, depth=depth, std=std, generator=generator)
        return cls(model)

    @property
    def prompts(self) -> Float[Tensor, "depth n w"]:
        """The vectors, of each place and patch."""
        stem = prompts_of(self.model)
        assert stem is not None  # __init__ has looked
        return stem.prompts

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Float[Tensor, "b d"]:
        """Embeddings, not normalised; arguments and errors as ``encode_masked``."""
        return encode_masked(cast(DualEncoder, self.model), image, mask=mask).pooled
