"""transformers' CLIP-like, SigLIP-like and ViT-like towers, which name their parts in three ways."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tether.models.convert.transformers_families import SIGLIP
from tether.models.encoders.wrapped import TransformersEncoder
from tether.models.features.parts import BlockAnatomy, Layout, TokenStream, WayOut, by_head, causal, hiding
from tether.models.features.pooling import AttentionPooling, MeanPooling, OtherPooling, Pooling, TokenPooling, projected
from tether.models.features.tower import Projection, TextAnatomy, TowerAnatomy
from tether.models.features.weights import Weights, linear_layers
from tether.models.refusals import refusal

_PARTS = (
    ("layer_norm1", "self_attn", "out_proj", "layer_norm2"),
    ("layernorm_before", "attention", "o_proj", "layernorm_after"),  # ViT
    ("norm1", "attention", "o_proj", "norm2"),  # DINOv2
)
"""Names of the norm before attention, of attention, of the way out of it, and of the norm before the ``mlp``."""
_PREFIX = ("cls_token", "distillation_token", "register_tokens")


def transformers_image(model: TransformersEncoder) -> TowerAnatomy:
    """The image tower of a dual encoder."""
    inside = dict(model.model.named_children())
    projection = inside.get("visual_projection")
    return vision_model(
        inside["vision_model"],
        inputs=model.image_inputs,
        output="pooler",
        head=[] if projection is None else [projection],
        any_size=model.family.any_size,
    )


def vision_model(
    tower: Any,
    *,
    inputs: Callable[[Tensor], dict[str, Any]],
    output: str,
    head: Sequence[Projection],
    any_size: bool = False,
) -> TowerAnatomy:
    """A vision model of transformers.

    Args:
        tower: the model.
        inputs: images to what it is called with.
        output: how it is read out: ``pooler``, ``cls`` or ``mean``.
        head: what stands between its row and the joint space.
        any_size: whether positions are resized to the image.
    """
    blocks, named = _blocks(tower), dict(tower.named_children())
    norm = named.get("post_layernorm", named.get("layernorm"))
    if blocks is None or norm is None:
        raise refusal("other transformer", f"the image tower is of class {type(tower).__name__}")
    tokens = [value for name, value in tower.embeddings.named_parameters(recurse=False) if name in _PREFIX]
    prefix, after, pooling = sum(value.shape[1] for value in tokens), None, MeanPooling()
    if "layernorm" in named:  # ViT: all states are normed, and a layer may follow on the first
        pooler = named.get("pooler")
        pooling = pooling if output == "mean" else TokenPooling()
        head = head if output != "pooler" or pooler is None else [pooler.dense, pooler.activation, *head]
    elif "pre_layrnorm" in named:  # CLIP: states are not normed, the class token alone is
        prefix = 1
        norm = None
        pooling, after = (TokenPooling(), tower.post_layernorm if output == "pooler" else None)
        pooling = MeanPooling() if output == "mean" else pooling
    elif output == "cls":
        pooling = TokenPooling()
    elif output == "pooler":
        if "head" not in named:
            raise refusal("pooling", f"the {type(tower).__name__} has no pooling head")
        pooling = _probe(tower.head)
    return TransformersImage(
        blocks=blocks,
        prefix=prefix,
        width=tower.config.hidden_size,
        norm=norm,
        pooling=pooling,
        after=after,
        projections=head,
        what=type(tower).__name__,
        tower=tower,
        inputs=inputs,
        any_size=any_size,
    )


def transformers_text(model: TransformersEncoder) -> TextAnatomy:
    """The text tower of a dual encoder."""
    tower: Any = model.model.get_submodule("text_model")
    blocks = _blocks(tower)
    if blocks is None or "final_layer_norm" not in dict(tower.named_children()):
        raise refusal("other text", f"the text tower is of class {type(tower).__name__}")
    siglip = model.family.model in SIGLIP
    return TransformersText(
        blocks=blocks,
        width=tower.config.hidden_size,
        norm=tower.final_layer_norm,
        pooling=TokenPooling(),
        projections=[tower.head if siglip else model.model.get_submodule("text_projection")],
        what=type(tower).__name__,
        tower=tower,
        model=model,
        last=siglip,
    )


def _blocks(tower: Any) -> list[BlockAnatomy] | None:
    named = dict(tower.named_children())
    inside = dict(named.get("encoder", tower).named_children())
    layers: Any = inside.get("layers", inside.get("layer", ()))
    names = [_names(layer) for layer in layers]
    if not names or None in names:
        return None
    return [TransformersBlock(layer, found) for layer, found in zip(layers, names, strict=True) if found is not None]


def _names(layer: Any) -> tuple[str, str, str, str] | None:
    """Its entry of ``_PARTS``; BEiT's blocks, which are named as ViT's, also add by place and have another scale."""
    for first, attention, out, second in _PARTS:
        known = all(hasattr(layer, name) for name in (first, attention, second, "mlp"))
        if known and hasattr(getattr(layer, attention), out) and not hasattr(layer, "lambda_1"):
            return first, attention, out, second
    return None


def _probe(head: Any) -> Pooling:
    """SigLIP's pooling head."""
    attention: nn.MultiheadAttention = head.attention
    if type(attention) is not nn.MultiheadAttention:
        return OtherPooling(head, type(attention).__name__)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)

    def query(x: Tensor) -> Tensor:
        return head.probe.expand(len(x), -1, -1)

    return AttentionPooling(
        pool=head,
        query_keys=projected(query, weights, biases, heads=attention.num_heads),
        values=weights[2],
        value_bias=biases[2],
        output=attention.out_proj,
        rest=lambda x: head.mlp(head.layernorm(x)),
    )


class TransformersBlock(BlockAnatomy):
    """An encoder layer of CLIP's, SigLIP's, ViT's and their kin."""

    norm_names: ClassVar[Mapping[str, str]] = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
    }

    def __init__(self, block: Any, names: tuple[str, str, str, str]) -> None:
        """Args: block: its module. names: entry of ``_PARTS``."""
        self.block, self._names = block, names
        self.heads = getattr(self._attention, "num_heads", None) or self._attention.num_attention_heads

    @property
    def _attention(self) -> Any:
        return getattr(self.block, self._names[1])

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return self.block(x, layout.bias)

    @property
    def out(self) -> WayOut:
        """From the heads into the stream."""
        scale = getattr(self.block, "layer_scale1", None)
        return WayOut(getattr(self._attention, self._names[2]), scale=None if scale is None else scale.lambda1)

    def qkv(self, normed: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """From three projections."""
        attention = self._attention
        first, second, third = (
            by_head(layer(normed), heads=self.heads) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return first, second, third

    def feed_forward(self, x: Tensor, layout: Layout) -> Tensor:
        """What the feed-forward net adds."""
        branch = self.block.mlp(self.norm2(x))
        return self.block.layer_scale2(branch) if hasattr(self.block, "layer_scale2") else branch

    def linears(self) -> Mapping[str, Weights]:
        """Each has a layer of its own."""
        attention, mlp = self._attention, self.block.mlp
        layers = {part: getattr(attention, f"{part}_proj") for part in "qkv"} | {
            "o": getattr(attention, self._names[2])
        }
        if hasattr(mlp, "gate_proj"):
            return linear_layers({**layers, "gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj})
        return linear_layers({**layers, "up": mlp.fc1, "down": mlp.fc2})


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformersImage(TowerAnatomy):
    """A CLIP-like, SigLIP-like or ViT-like vision model."""

    tower: Any
    inputs: Callable[[Tensor], dict[str, Any]]
    any_size: bool

    def embed(self, batch: Tensor) -> TokenStream:
        """Images to the stream that enters block 0; a batch has one size, so nothing in it is padding."""
        given = self.inputs(batch) | ({"interpolate_pos_encoding": True} if self.any_size else {})
        taken = inspect.signature(self.tower.embeddings.forward).parameters
        x = self.tower.embeddings(**{key: value for key, value in given.items() if key in taken})
        if hasattr(self.tower, "pre_layrnorm"):
            x = self.tower.pre_layrnorm(x)
        return TokenStream(x, Layout.first(x, grid=self.grid(batch)))

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.tower.config.patch_size
        return image.shape[2] // side, image.shape[3] // side


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformersText(TextAnatomy):
    """A CLIP-like or SigLIP-like text model."""

    tower: Any
    model: TransformersEncoder
    last: bool

    def prepare(self, text: Tensor) -> Tensor:
        """Padded as the tower was trained."""
        return self.model.text_inputs(text)["input_ids"]

    def token_rows(self, ids: Tensor) -> Tensor:
        """The table's rows."""
        return self.tower.embeddings.token_embedding(ids)

    def embed(self, batch: Tensor, *, rows: Tensor | None = None) -> TokenStream:
        """Token ids to the stream that enters block 0."""
        given = self.model.text_inputs(batch)
        ids, words = given["input_ids"], given["attention_mask"]
        n = ids.shape[1]
        x = self.tower.embeddings(inputs_embeds=self.rows_of(ids, rows))
        seen = None if self.last else causal(n, ids.device)
        if words is not None:
            known = words.bool()[:, None, None]
            seen = known if seen is None else seen & known
        bias = None if seen is None else hiding(seen.expand(len(x), 1, n, n), x.dtype)
        return TokenStream(x, Layout(self._reads(ids), bias=bias, ids=ids))

    def _reads(self, ids: Tensor) -> Tensor:
        if self.last:
            return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
        end = self.tower.eos_token_id
        legacy = end == 2 and self.model.family.model != "MetaClip2Model"
        return ids.argmax(dim=-1) if legacy else (ids == end).int().argmax(dim=-1)
