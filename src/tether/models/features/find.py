"""The anatomy of any encoder's tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import ImageSide, TextSide
from tether.models.encoders.tower_parts import Side
from tether.models.encoders.wrapped import OpenClipEncoder, TransformersEncoder, padded
from tether.models.features.read_by import read_by
from tether.models.features.sealed import SealedText
from tether.models.features.tower import Projection, TextAnatomy, TowerAnatomy
from tether.models.refusals import refusal
from tether.models.towers.clip import Clip


def anatomy_of(model: DualEncoder, side: Side = "image") -> TowerAnatomy:
    """A tower's stream, blocks and read-out, whichever library it comes from.

    Its parts are the model's own modules: they train, they follow its device and precision, and nothing is copied.

    Args:
        model: any model that ``tether.load`` gives: Tether's own, open_clip's ``VisionTransformer``, timm's
            ``VisionTransformer`` and ``Eva`` behind open_clip or in a composed encoder, transformers' CLIP-like,
            SigLIP-like and ViT-like towers (DeiT, DINOv2).
        side: ``image`` or ``text``.

    Raises:
        UnsupportedModelError: a tower without such blocks, with a reason of ``models.refusals.EXCEPTIONS``.
        InputError: a module that ``torch.compile`` wrapped, which shows none of its parts.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.find import anatomy_of
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> tower = anatomy_of(model)
        >>> stream = tower.run(tower.embed(image))
        >>> torch.allclose(tower.read_out(stream), model.encode_image(image).pooled, atol=1e-6)
        True
        >>> tower.read_tokens(stream).shape  # the class token and 16 patches in the joint space
        torch.Size([2, 17, 64])
    """
    return tower_of(model, side).opened()


def text_anatomy(model: DualEncoder) -> TextAnatomy:
    """The text tower, which can also be run from rows that no word has; see ``anatomy_of``."""
    return cast(TextAnatomy, anatomy_of(model, "text"))


def tower_of(model: DualEncoder, side: Side = "image") -> TowerAnatomy:
    """As ``anatomy_of``, but a sealed tower is given too, of which the last states and the read-out can be seen."""
    if side not in ("image", "text"):
        raise InputError(f"side: expected image or text, got {side!r}")
    if isinstance(model, nn.Module) and "_orig_mod" in dict(model.named_children()):
        raise InputError("model: is compiled, which hides its parts; expected the module before torch.compile")
    if isinstance(model, Clip):
        from tether.models.features.own import own_image, own_text

        return own_image(model) if side == "image" else own_text(model)
    if isinstance(model, OpenClipEncoder):
        return _open_clip_image(model) if side == "image" else _open_clip_text(model)
    if isinstance(model, TransformersEncoder):
        from tether.models.features.hugging_face import transformers_image, transformers_text

        if model.family.model == "AlignModel" and side == "image":
            raise refusal("map", "the image tower is an EfficientNet of transformers")
        return transformers_image(model) if side == "image" else transformers_text(model)
    if isinstance(model, ComposedEncoder):
        parts = model.parts
        if side == "image":
            return _images(parts.image, pixels=model.pixels, head=_each_row(parts.image_map))
        return _texts(parts.text, head=_each_row(parts.text_map))
    raise refusal("stranger", type(model).__name__)


def _open_clip_image(model: OpenClipEncoder) -> TowerAnatomy:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    from tether.models.features.convolutions import modified_resnet
    from tether.models.features.open_clip import open_clip_image
    from tether.models.features.timm import timm_image

    tower: Any = model.model.get_submodule("visual")
    if isinstance(tower, TimmModel):
        return timm_image(tower.trunk, pixels=model.pixels, head=tuple(cast(nn.Sequential, tower.head)))
    if type(tower) is VisionTransformer:
        return open_clip_image(model, tower)
    if type(tower) is ModifiedResNet:
        return modified_resnet(tower, pixels=model.pixels)
    raise refusal("other transformer", f"the image tower is of class {type(tower).__name__}")


def _open_clip_text(model: OpenClipEncoder) -> TowerAnatomy:
    from open_clip.hf_model import HFTextEncoder

    from tether.models.features.open_clip import open_clip_text

    tower: Any = dict(model.model.named_children()).get("text", model.model)
    if isinstance(tower, HFTextEncoder):
        return _hub_text(model, tower)
    if "ln_final" not in dict(tower.named_children()):
        raise refusal("other text", f"the text tower is of class {type(tower).__name__}")
    return open_clip_text(model, tower)


def _hub_text(model: OpenClipEncoder, tower: Any) -> TowerAnatomy:
    """A text tower of transformers inside open_clip."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    width, inner = model.tokenizer.context_length, tower.transformer

    def states(text: Tensor) -> tuple[Tensor, Tensor]:
        ids, _ = padded(text, width=width, pad=model.pad)
        seen = ids != tower.config.pad_token_id
        return inner(input_ids=ids, attention_mask=seen.long()).last_hidden_state, seen

    def pool(x: Tensor, seen: Tensor) -> Tensor:
        own = getattr(inner, "pooler", None)
        found = BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=None if own is None else own(x))
        return tower.pooler(found, seen.long())

    return SealedText(
        width=inner.get_input_embeddings().embedding_dim,
        projections=[tower.proj],
        what=type(inner).__name__,
        states=states,
        pool=pool,
        token=_as_it_is,
    )


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def image_side_of(side: ImageSide) -> TowerAnatomy:
    """As ``tower_of``, of an image tower by itself, which takes normalised pixels; ``project`` is the tower's own."""
    return _images(side, pixels=_as_it_is, head=[])


def _images(side: ImageSide, *, pixels: Callable[[Tensor], Tensor], head: list[Projection]) -> TowerAnatomy:
    """The image tower of a composed encoder."""
    if side.unchanged is not None:
        return _images(side.unchanged, pixels=pixels, head=head)
    inner: Any = side.inner
    if side.reader is not None:
        return read_by(side.reader, _images(inner, pixels=pixels, head=[]), head=head)
    from tether.models.composed import dual_tower, timm_tower, transformers_tower

    if isinstance(side, dual_tower.DualImages):
        found = tower_of(inner)
        return replace(found, projections=[*found.projections, *head])
    if isinstance(side, timm_tower.TimmImages):
        from tether.models.features.timm import timm_image

        return timm_image(inner, pixels=pixels, head=head)
    if not isinstance(side, transformers_tower.TransformersImages):
        raise refusal("rows alone", f"the image tower is of class {type(side).__name__}")
    from tether.models.features.hugging_face import vision_model

    def inputs(image: Tensor) -> dict[str, Any]:
        return {"pixel_values": pixels(image)}

    return vision_model(inner, inputs=inputs, output=side.settings["output"], head=head)


def _texts(side: TextSide, *, head: list[Projection]) -> TowerAnatomy:
    """The text tower of a composed encoder."""
    from tether.models.composed import dual_tower, transformers_tower

    if isinstance(side, dual_tower.DualTexts):
        found = tower_of(cast(Any, side.inner), "text")
        return replace(found, projections=[*found.projections, *head])
    if not isinstance(side, transformers_tower.TransformersTexts):
        raise refusal("rows alone", f"the text tower is of class {type(side).__name__}")
    return SealedText(
        width=side.width,
        projections=head,
        what=type(side.inner).__name__,
        states=side.states,
        pool=side.pool,
        token=side.finish,
    )


def _each_row(module: nn.Module) -> list[Projection]:
    """A map of rows (b, w) as a map of rows of any shape; linear ones as they are, so that they can be seen through."""
    if isinstance(module, (nn.Linear, nn.Identity)):
        return [module]
    return [lambda rows: module(rows.flatten(0, -2)).unflatten(0, rows.shape[:-1])]
