"""What an image's embedding is projected from: the pooled and normed state of its tower, for heads of its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.features.find import tower_of
from tether.models.features.parts import TokenStream
from tether.models.features.read_by import token_norm
from tether.models.features.tower import TowerAnatomy
from tether.models.refusals import refusal


def image_state(model: DualEncoder, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Features:
    """Embed images, and also give what the embeddings are projections of.

    SimCLR's and BYOL's heads read it (SLIP, arXiv 2112.12750; A-CLIP, arXiv 2212.08653): the class token before the
    projection into the joint space.

    Args:
        model: any model that ``tether.load`` gives, but those whose image tower shows no stream.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        keep: (b, k) the patches to look at, of a vision transformer.

    Returns:
        ``pooled`` (b, d), and as ``tokens`` (b, 1, w) one row of the tower's width, with gradient.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.penultimate import image_state
        >>> image_state(create("tiny").eval(), torch.rand(2, 3, 32, 32)).tokens.shape
        torch.Size([2, 1, 64])
    """
    tower = tower_of(model)
    stream = tower.run(tower.embed_some(image, keep=keep))
    return read_state(tower, stream)


def image_tokens(model: DualEncoder, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Features:
    """Embed images, and also give every token in the tower's width, those before the patches among them, for decoders.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.penultimate import image_tokens
        >>> image_tokens(create("tiny").eval(), torch.rand(2, 3, 32, 32)).tokens.shape  # a class token and 16 patches
        torch.Size([2, 17, 64])
    """
    tower = tower_of(model)
    stream = tower.run(tower.embed_some(image, keep=keep))
    return Features(tower.read_out(stream), read_each(tower, stream), extra=stream.extra)


def read_each(tower: TowerAnatomy, stream: TokenStream) -> Float[Tensor, "b n w"]:
    """Each token of a final stream in the tower's width, with the final norm where that has this width."""
    norm = token_norm(tower)
    return stream.x if norm is None else norm(stream.x)


def read_state(tower: TowerAnatomy, stream: TokenStream) -> Features:
    """``image_state`` of a final stream."""
    state: Float[Tensor, "b w"] = replace(tower, projections=()).read_out(stream)
    return Features(tower.project(state), state[:, None], extra=stream.extra)


def image_map(model: DualEncoder, image: Tensor) -> Features:
    """Embed images, and also give the last map of their tower: what each patch has become, for heads that read patches.

    Args:
        model: any model that ``tether.load`` gives, but those whose image tower shows neither tokens nor a map.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.

    Returns:
        ``pooled`` (b, d), and as ``tokens`` (b, n, w) the patches after the last block, before the final norm, row by
        row from the top left, with gradient; of a network of convolutions the places of its last map.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.penultimate import image_map
        >>> image_map(create("tiny").eval(), torch.rand(2, 3, 32, 32)).tokens.shape
        torch.Size([2, 16, 64])
    """
    tower = tower_of(model)
    stream = tower.run(tower.embed(image))
    return Features(tower.read_out(stream), stream.x[:, tower.prefix :], extra=stream.extra)


@torch.no_grad()
def patch_grid(model: DualEncoder) -> tuple[int, int]:
    """Rows and columns of patches of an image of the model's size.

    Raises:
        UnsupportedModelError: a tower without patches, or one that drops some.
    """
    size = model.image_spec.size
    tower = tower_of(model)
    blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.logit_scale.device)
    return grid_of(tower, tower.embed(blank), size=size)


def grid_of(tower: TowerAnatomy, stream: TokenStream, *, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches of a stream, of images of this height and width.

    Raises:
        UnsupportedModelError: the tower drops patches.
    """
    count = stream.x.shape[1] - tower.prefix
    grid = stream.layout.grid
    if grid is None:
        rows = max(1, round((count * size[0] / size[1]) ** 0.5))
        grid = (rows, count // rows)
    if grid[0] * grid[1] != count:
        raise refusal("no dropping", f"the image tower is a {tower.what}")
    return grid


def inner_patches(tower: TowerAnatomy, stream: TokenStream, *, block: int) -> Float[Tensor, "b n w"]:
    """What the feed-forward net of a block reads of the patches: their normed states halfway through it.

    Args:
        tower: whose.
        stream: that enters the block.
        block: its index.

    Raises:
        UnsupportedModelError: a block that cannot be taken into pieces, with a reason of ``models.refusals``.
    """
    one, layout = tower.blocks[block], tower.layout_at(stream.layout, block)
    return one.norm2(stream.x + one.attention(stream.x, layout))[:, tower.prefix :]
