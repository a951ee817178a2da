"""What the tokens of a tower attend to, for every encoder whose tower has an anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.encoders.tower_parts import Side
from tether.models.features.find import anatomy_of
from tether.models.features.parts import Layout, TokenStream
from tether.models.features.pooling import TokenPooling


def attention_maps(
    model: DualEncoder,
    batch: Tensor,
    *,
    rows: Literal["pool", "all"] = "pool",
    layers: Sequence[int] | None = None,
    side: Side = "image",
) -> Float[Tensor, "b l h ..."]:
    """The attention weights of each head of some blocks, each row adding up to 1.

    Args:
        model: any model that ``tether.load`` gives whose tower is a plain transformer; see
            ``models.features.find.anatomy_of``.
        batch: (b, 3, h, w) images or (b, l) token ids.
        rows: ``pool`` gives what the pooling token attends to: the class token or the end of a text. A tower that pools
            by a mean or by attention has none; there it is the mean of all rows, each counted as the pooling counts its
            token. ``all`` gives every row.
        layers: the blocks, negative from the end, in the order that they are wanted in; None means all.
        side: the tower.

    Returns:
        (b, layers, heads, n) or (b, layers, heads, n, n), in the model's precision and with gradient. The first
        ``anatomy_of(model).prefix`` tokens of an image are no patches.

    Raises:
        InputError: no such layer, or the model is in training mode.
        UnsupportedModelError: a tower without blocks, or whose blocks cannot be taken into pieces.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.attention_maps import attention_maps
        >>> model = create("tiny").eval()
        >>> maps = attention_maps(model, torch.rand(2, 3, 32, 32), layers=[-1])
        >>> maps.shape  # of the class token, over itself and 16 patches
        torch.Size([2, 1, 2, 17])
    """
    return maps_and_stream(model, batch, rows=rows, layers=layers, side=side)[0]


def maps_and_stream(
    model: DualEncoder,
    batch: Tensor,
    *,
    rows: Literal["pool", "all"] = "pool",
    layers: Sequence[int] | None = None,
    side: Side = "image",
) -> tuple[Float[Tensor, "b l h ..."], TokenStream]:
    """``attention_maps``, and the stream after the last block that was run: the final one where all were asked for."""
    if rows not in ("pool", "all"):
        raise InputError(f"rows: expected pool or all, got {rows!r}")
    if isinstance(model, nn.Module) and model.training:
        raise InputError("model: is in training mode, where dropout changes what tokens attend to; call eval()")
    tower = anatomy_of(model, side)
    wanted = range(len(tower.blocks)) if layers is None else [tower.place(layer) for layer in layers]
    if not wanted:
        raise InputError("layers: expected at least one block, got none")
    stream = tower.embed(batch)
    layout, states = stream.layout, {}
    averaged = rows == "pool" and not isinstance(tower.pooling, TokenPooling)
    for index in range(len(tower.blocks) if averaged else max(wanted) + 1):
        if index in wanted:
            states[index] = stream.x
        stream = tower.step(stream, index)
    counts = None
    if averaged:
        x = stream.x if tower.norm is None else tower.norm(stream.x)
        counts = tower.pooling.shares(x, layout).mean(1)
    maps = {}
    for index, x in states.items():
        block, own = tower.blocks[index], tower.layout_at(layout, index)
        queries, keys, _ = block.qkv(block.norm1(x), own)
        bias = own.bias
        if rows == "pool" and counts is None:
            queries, bias = _read_row(queries, own), None if bias is None else _read_row(_by_batch(bias, len(x)), own)
        weights = block.weights(queries, keys, bias)
        if counts is not None:
            weights = torch.einsum("bm,bhmn->bhn", counts, weights)
        maps[index] = weights[:, :, 0] if rows == "pool" and counts is None else weights
    return torch.stack([maps[index] for index in wanted], dim=1), stream


def _read_row(x: Float[Tensor, "b h n e"], layout: Layout) -> Float[Tensor, "b h 1 e"]:
    """Of each text or image the row of the token that is read."""
    return layout.read(x.transpose(1, 2))[:, :, None]


def _by_batch(bias: Tensor, count: int) -> Float[Tensor, "b h n n"]:
    """A bias with all of its axes."""
    return bias[(None,) * (4 - bias.ndim)].expand(count, -1, -1, -1)
