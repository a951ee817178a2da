"""What EVA's image towers are made of, beside the options of every block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import Count, checked
from tether.core.ranges import Whole as Whole  # like the names below, in the options that VisionConfig has
from tether.core.registry import Registry
from tether.core.types import ImageSpec as ImageSpec
from tether.models.config_check import mapping
from tether.models.towers.blocks.block import BlockConfig, Place
from tether.models.towers.blocks.moe import MoeConfig as MoeConfig
from tether.models.towers.blocks.presets import BlockPreset
from tether.models.towers.config import Layers as Layers
from tether.models.towers.config import ModelConfig, VisionConfig, read_config
from tether.models.towers.config import Size as Size

EPS = 1e-6
"""What EVA's norms add to the variance."""


def eva_block(
    *,
    norm: Literal["rms", "layer"] = "layer",
    norm_position: Literal["pre", "post"] = "pre",
    swiglu: bool = False,
    sub_norm: bool = False,
    layer_scale: float | None = None,
) -> BlockConfig:
    """The block of an EVA tower.

    Args:
        norm: ``rms`` for EVA-CLIP-8B and -18B, ``layer`` for those before.
        norm_position: ``pre``, a norm of each sublayer's input, or ``post``, one of its output: the skip is untouched.
        swiglu: whether the feed-forward net is gated (EVA-02).
        sub_norm: whether all heads' outputs together, and the feed-forward net's hidden values, are normed (EVA-02).
        layer_scale: start of a factor for each channel of both sublayers' outputs; None for none.

    Example:
        >>> from tether.models.towers.vision.eva_config import eva_block
        >>> eva_block(norm="rms", norm_position="post").attn_norm
        ('out',)
    """
    places: tuple[Place, ...] = ("pre",) if norm_position == "pre" else ("out",)
    return BlockConfig(
        norm=norm,
        norm_eps=EPS,
        attn_norm=places,
        ffn_norm=places,
        activation="swiglu" if swiglu else "gelu",
        ctx_norm=sub_norm,
        ctx_norm_eps=EPS,
        ffn_mid_norm=sub_norm,
        layer_scale=layer_scale,
    )


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class EvaConfig(VisionConfig):
    """An image tower of EVA: patches with an offset, no norm before the blocks, and no offset of keys.

    Its other options are those of ``VisionConfig``; the blocks are EVA-02's where nothing else is said.

    Attributes:
        tower: says in a file or a recipe that the tower is of this kind.
        qkv_bias: whether queries and values have an offset, and the projection too; keys have none.
        rope_span: side of the grid, in patches, that rotary positions are counted on: another grid is laid over the
            same span, so that angles stay as they were trained. None for a tower that turns nothing.
        pool: the embedding is made of the ``class`` token, or of the ``mean`` of all tokens, normed after it is taken.
    """

    made_by: ClassVar[str] = "tether.models.towers.vision.eva:EvaTower"
    block: BlockConfig | BlockPreset = field(default_factory=lambda: eva_block(swiglu=True, sub_norm=True))
    tower: Literal["eva"] = "eva"
    qkv_bias: bool = True
    rope_span: Count | None = 16
    pool: Literal["class", "mean"] = "class"

    def __post_init__(self) -> None:
        """Refuse sizes and options that do not fit each other."""
        VisionConfig.__post_init__(self)
        if any(block.rope != "none" for block in self.blocks):
            raise InputError("block: EVA's towers turn by rope_span; expected rope: none")
        if self.rope_span is not None and self.width // self.heads % 4:
            raise InputError(
                f"rope_span: expected heads of a multiple of 4 channels, got {self.width // self.heads}; or null"
            )


TOWERS: Registry[VisionConfig] = Registry(
    "towers",
    {
        "eva": "tether.models.towers.vision.eva_config:EvaConfig",
        "latent": "tether.models.latent.config:LatentConfig",
    },
)
"""Kinds of image tower beside CLIP's own, by what a file or a recipe calls them."""


def with_tower(base: ModelConfig, values: Mapping[str, Any], *, where: str) -> ModelConfig:
    """What settings stand on: with ``vision: {tower: eva}`` a model whose image tower is EVA's, of the base's sizes.

    Args:
        base: what stands where the settings say nothing.
        values: settings of a model, as ``read_config`` takes them.
        where: file or call, for the error message.

    Raises:
        InputError: a tower of another kind, or a shared one, since both kinds are for images alone.
    """
    vision = values.get("vision")
    kind = vision.get("tower") if isinstance(vision, Mapping) else None
    if kind is not None and kind not in TOWERS:
        raise InputError(f"{where}.vision.tower: unknown tower {quoted(kind)}; {closest(str(kind)[:80], TOWERS)}")
    if kind is not None and not isinstance(base.vision, made := TOWERS[kind]):
        own = EvaConfig in (made, type(base.vision))
        sizes: dict[str, Any] = {
            one.name: getattr(base.vision, one.name) for one in fields(VisionConfig) if one.name != "block" or not own
        }
        sizes["image"] = made.prepared(base.vision.image)
        base = replace(base, vision=made(**sizes))
    if type(base.vision) is not VisionConfig and values.get("towers") == "shared":
        raise InputError(f"{where}.towers: a tower of kind {kind} is for images alone; expected two")
    return base


def saved_config(values: Mapping[str, Any], *, where: str) -> ModelConfig:
    """``read_config`` of what a model's ``model.json`` says."""
    return read_config(values, where=where, base=with_tower(ModelConfig(), mapping(values, where=where), where=where))
