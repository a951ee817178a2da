"""transformers' CLIP-like and SigLIP-like towers; all of them name their parts alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.models.anatomy.exceptions import refusal
from tether.models.anatomy.parts import BlockAnatomy, Layout, TokenStream, WayOut, by_head, causal, hiding
from tether.models.anatomy.pooling import AttentionPooling, MeanPooling, OtherPooling, Pooling, TokenPooling
from tether.models.anatomy.tower import Projection, TextAnatomy, TowerAnatomy
from tether.models.anatomy.weights import Weights, linear_layers
from tether.models.transformers_families import SIGLIP
from tether.models.wrapped_encoders import TransformersEncoder

_PARTS = ("layer_norm1", "self_attn", "layer_norm2", "mlp")


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
    if blocks is None or "post_layernorm" not in named:
        raise refusal("other transformer", f"the image tower is a {type(tower).__name__}")
    norm, after, pooling = tower.post_layernorm, None, MeanPooling()
    if "pre_layrnorm" in named:  # CLIP: states are not normed, the class token alone is
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
        prefix=1 if "pre_layrnorm" in named else 0,
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
        raise refusal("other text", f"the text tower is a {type(tower).__name__}")
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
    encoder = dict(tower.named_children()).get("encoder")
    layers: Any = getattr(encoder, "layers", ())
    known = len(layers) and all(hasattr(layer, name) for layer in layers for name in _PARTS)
    return [TransformersBlock(layer) for layer in layers] if known else None


def _probe(head: Any) -> Pooling:
    """SigLIP's pooling head."""
    attention: nn.MultiheadAttention = head.attention
    if type(attention) is not nn.MultiheadAttention:
        return OtherPooling(head, f"a {type(attention).__name__}")
    weights, biases, heads = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), attention.num_heads

    def query_keys(x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (
            by_head(F.linear(rows, weights[at], biases[at]), heads=heads)
            for at, rows in ((0, head.probe.expand(len(x), -1, -1)), (1, x))
        )
        return first, second

    return AttentionPooling(
        pool=head,
        query_keys=query_keys,
        values=weights[2],
        value_bias=biases[2],
        output=attention.out_proj,
        rest=lambda x: head.mlp(head.layernorm(x)),
    )


class TransformersBlock(BlockAnatomy):
    """An encoder layer of CLIP's, SigLIP's and their kin."""

    norm_names: ClassVar[Mapping[str, str]] = {"layer_norm1": "norm1", "layer_norm2": "norm2"}

    def __init__(self, block: Any) -> None:
        """Args: block: its module."""
        self.block, self.heads = block, block.self_attn.num_heads

    def __call__(self, x: Tensor, layout: Layout) -> Tensor:
        """The block's own call."""
        return self.block(x, layout.bias)

    @property
    def out(self) -> WayOut:
        """From the heads into the stream."""
        return WayOut(self.block.self_attn.out_proj)

    def norm1(self, x: Tensor) -> Tensor:
        """The norm before attention."""
        return self.block.layer_norm1(x)

    def norm2(self, x: Tensor) -> Tensor:
        """The norm before the feed-forward net."""
        return self.block.layer_norm2(x)

    def qkv(self, normed: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """From three projections."""
        attention = self.block.self_attn
        first, second, third = (
            by_head(layer(normed), heads=self.heads) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return first, second, third

    def feed_forward(self, x: Tensor, layout: Layout) -> Tensor:
        """What the feed-forward net adds."""
        return self.block.mlp(self.block.layer_norm2(x))

    def linears(self) -> Mapping[str, Weights]:
        """Each has a layer of its own."""
        attention, mlp = self.block.self_attn, self.block.mlp
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
        layers = {part: getattr(attention, name) for part, name in names.items()}
        return linear_layers({**layers, "up": mlp.fc1, "down": mlp.fc2})


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformersImage(TowerAnatomy):
    """A CLIP-like or SigLIP-like vision model."""

    tower: Any
    inputs: Callable[[Tensor], dict[str, Any]]
    any_size: bool

    def embed(self, batch: Tensor) -> TokenStream:
        """Images to the stream that enters block 0; a batch has one size, so nothing in it is padding."""
        given = {key: value for key, value in self.inputs(batch).items() if key != "pixel_attention_mask"}
        sized = {"interpolate_pos_encoding": True} if self.any_size else {}
        x = self.tower.embeddings(**(given | sized))
        if self.prefix:
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
