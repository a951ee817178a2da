"""Blocks without attention: a copy of one of Tether's own models, without that of some of its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.clip import Clip


def without_attention(model: Clip, *, side: Literal["image", "text"] = "image", blocks: Iterable[int]) -> Clip:
    """A copy whose given blocks have no attention, and neither its weights nor its cost; all else is as it was.

    The description says so (``without_attention`` of the tower), so the copy is saved, loaded and trained as any other.
    A shared tower loses it for both sides.

    Args:
        model: one of Tether's own; it stays as it is.
        side: ``image`` or ``text``.
        blocks: indices, which may be counted from the end; those without attention already stay so.

    Raises:
        InputError: another model, no such block, or no such side.

    Source: arXiv 2512.20636, section 3: x + Attn(norm(x)) becomes x, and the feed-forward net stays.

    Example:
        >>> from tether.models import create
        >>> from tether.models.towers.attention_free import without_attention
        >>> model = create("tiny")
        >>> pruned = without_attention(model, blocks=[-1])
        >>> pruned.config.vision.without_attention
        (1,)
        >>> [sum(value.numel() for value in one.visual.blocks[1].parameters()) for one in (model, pruned)]
        [49984, 33216]
    """
    if not isinstance(model, Clip):
        raise InputError(f"model: expected one of Tether's own, got {type(model).__name__}")
    if side not in ("image", "text"):
        raise InputError(f"side: expected image or text, got {side!r}")
    config = model.config
    names = ("vision", "text") if config.towers == "shared" else ("vision" if side == "image" else "text",)
    tower = config.vision if side == "image" else config.text
    none = set(tower.without_attention)
    for index in blocks:
        if not -tower.layers <= index < tower.layers:
            raise InputError(f"blocks: expected {-tower.layers} to {tower.layers - 1}, got {index}")
        none.add(index % tower.layers)
    changes: Any = {name: replace(getattr(config, name), without_attention=tuple(sorted(none))) for name in names}
    with torch.inference_mode(False):
        made = Clip(replace(config, **changes), tokenizer=model.tokenizer)
        made.to(device=model.log_logit_scale.device, dtype=model.log_logit_scale.dtype)
        own = made.state_dict()
        made.load_state_dict({name: value for name, value in model.state_dict().items() if name in own})
    learning = {name: value.requires_grad for name, value in model.named_parameters()}
    for name, value in made.named_parameters():
        value.requires_grad_(learning[name])
    return made.train(model.training)


def drop_attention_(block: TransformerBlock) -> TransformerBlock:
    """Take the attention out of one block in place, its weights and its norm before; the feed-forward net stays.

    Raises:
        InputError: it has none.
    """
    if not block.attends:
        raise InputError("block: has no attention; expected one that attends")
    block.attends = False
    for name in _MAPS:
        delattr(block, name)
    for name in _OPTIONAL:
        setattr(block, name, None)
    return block


_MAPS = ("qkv", "proj")
_OPTIONAL = (
    *("attn_pre", "attn_out", "q_norm", "k_norm", "v_norm", "c_norm", "ctx_norm", "out_gate", "lepe"),
    *("head_scale", "attn_scale"),
)
ATTENTION = ("attends", *_MAPS, *_OPTIONAL)
"""Attributes of a block that ``drop_attention_`` changes."""


class NoAttention(nn.Module):
    """Attention of a decoder layer of transformers that adds nothing."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Zeros, and no weights."""
        return torch.zeros_like(hidden_states), None
