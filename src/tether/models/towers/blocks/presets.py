"""Published arrangements of the one block by name: what the block of a given layer looks like."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.towers.blocks.block import BlockConfig, Place
from tether.models.towers.blocks.layers import pick


def prenorm(layer: int, *, layers: int) -> BlockConfig:
    """Each sublayer's input is normalised, the stream never is: CLIP's own blocks (arXiv 2103.00020)."""
    return BlockConfig()


def postnorm(layer: int, *, layers: int) -> BlockConfig:
    """The sum of skip and sublayer is normalised: the first transformer (arXiv 1706.03762, section 3.1)."""
    return BlockConfig(attn_norm=("post",), ffn_norm=("post",))


def normformer(layer: int, *, layers: int) -> BlockConfig:
    """Pre-norm with three small additions (arXiv 2110.09456, section 2).

    A norm on the attention's output, one learned factor for each head before the output projection, and a norm after
    the activation. ``residual_scale`` on top is the paper's fourth piece, for small models; ``head_scale: after_proj``
    is where fairseq's code puts the factors. Every factor starts at one.

    Example:
        >>> from tether.models import create
        >>> model = create("tiny", block={"preset": "normformer", "residual_scale": True})
        >>> block = model.config.text.blocks[0]
        >>> block.attn_norm, block.head_scale, block.ffn_mid_norm
        (('pre', 'out'), 'heads', True)
    """
    return BlockConfig(attn_norm=("pre", "out"), ffn_mid_norm=True, head_scale="heads")


def hybridnorm(layer: int, *, layers: int) -> BlockConfig:
    """Normalised queries, keys and values; the feed-forward net starts, skip and all, from a norm (arXiv 2503.04598).

    Nothing is normalised before attention. That the feed-forward net's skip is taken from the normalised value is the
    same as a norm after the attention's sum and none in the feed-forward net.

    Example:
        >>> from tether.models import create
        >>> model = create("tiny", block={"preset": "hybridnorm"})
        >>> block = model.config.text.blocks[0]
        >>> block.attn_norm, block.qkv_norm, block.norm
        (('post',), 'qkv', 'rms')
    """
    return BlockConfig(attn_norm=("post",), ffn_norm=(), qkv_norm="qkv", norm="rms")


def hybridnorm_star(layer: int, *, layers: int) -> BlockConfig:
    """HybridNorm whose first block is pre-norm, queries, keys and values normalised there too (arXiv 2503.04598)."""
    if layers < 2:
        raise InputError(f"layers: hybridnorm* needs at least 2, a pre-norm block and a hybrid one, got {layers}")
    return BlockConfig(qkv_norm="qkv", norm="rms") if layer == 0 else hybridnorm(layer, layers=layers)


def skip_middle(layer: int, *, layers: int) -> BlockConfig:
    """The blocks that Skip-the-Middle gates (arXiv 2506.21103, section 4): norms on both sides of each sublayer.

    They keep the stream's size bounded whatever the gates do. The gate itself is the tower's (``gate: mirror``).
    """
    places: tuple[Place, ...] = ("pre", "out")
    return BlockConfig(
        attn_norm=places, ffn_norm=places, norm="rms", rope="interleaved", activation="swiglu", bias=False
    )


def nalaformer(layer: int, *, layers: int) -> BlockConfig:
    """NaLaFormer's linear blocks, for images only (arXiv 2506.21137, released code).

    ``attention: softmax`` on top gives the released softmax twin, which its last two stages are made of.
    """
    return BlockConfig(
        attention="nala",
        rope="2d",
        norm_eps=1e-6,
        out_gate=True,
        ctx_norm=True,
        lepe=5,
        position_conv=3,
        ffn_conv=3,
        layer_scale=1.0,
    )


BLOCK_PRESETS: Mapping[str, Callable[..., BlockConfig]] = {
    "prenorm": prenorm,
    "postnorm": postnorm,
    "normformer": normformer,
    "hybridnorm": hybridnorm,
    "hybridnorm*": hybridnorm_star,
    "skip_middle": skip_middle,
    "nalaformer": nalaformer,
}
"""Arrangements by name: functions ``(layer, *, layers) -> BlockConfig``."""


def block_preset(name: str, *, layer: int, layers: int) -> BlockConfig:
    """The block of one layer.

    Args:
        name: a key of ``BLOCK_PRESETS``.
        layer: its place, 0 to ``layers`` - 1.
        layers: how many the tower has.
    """
    preset = pick(name, BLOCK_PRESETS, option="preset")
    if not 0 <= layer < layers:
        raise InputError(f"layer: expected 0 to {layers - 1} in a tower of {layers} layers, got {layer}")
    return preset(layer, layers=layers)


@dataclass(frozen=True, slots=True)
class BlockPreset:
    """What a model's configuration says of its blocks: a preset's name and options on top of it, for every layer.

    Attributes:
        preset: a key of ``BLOCK_PRESETS``.
        options: fields of ``BlockConfig`` that replace the preset's.
    """

    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        pick(self.preset, BLOCK_PRESETS, option="preset")
        known = [option.name for option in dataclasses.fields(BlockConfig)]
        for option in self.options:
            if option not in known:
                raise InputError(f"preset {self.preset}: unknown option {option!r}; {closest(option, known)}")


def block_stack(block: BlockConfig | BlockPreset, *, layers: int) -> tuple[BlockConfig, ...]:
    """The blocks of a whole tower, first to last."""
    if isinstance(block, BlockConfig):
        return (block,) * layers
    plain = (block_preset(block.preset, layer=layer, layers=layers) for layer in range(layers))
    return tuple(dataclasses.replace(one, **block.options) for one in plain)
