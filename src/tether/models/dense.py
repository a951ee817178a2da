"""Parts of an image and words of a text in the joint space, for every encoder that ``tether.load`` gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.decomposition.pieces import listening
from tether.models.dual import Clip
from tether.models.tokenizer import lengths
from tether.models.transformers_families import SIGLIP
from tether.models.wrapped_encoders import OpenClipEncoder, TransformersEncoder


def dense_image(model: DualEncoder, image: Tensor, *, keep: Int[Tensor, "b k"] | None = None) -> Features:
    """Embed images and each of their patches: a patch goes through the same read-out as the whole image would.

    Of a class token's tower that is the final norm and the projection; a tower that pools is given one patch as if it
    were all there is. So for a mean of patches with a linear read-out, ``pooled`` is the mean of ``tokens``.

    Args:
        model: any model that ``tether.load`` gives: Tether's own, open_clip's ``VisionTransformer`` or timm network,
            transformers' SigLIP.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        keep: (b, k) the patches to look at; for models of Tether's own only.

    Returns:
        ``pooled`` (b, d), and ``tokens`` (b, patches, d) row by row from the top left, not normalised, with gradient.

    Raises:
        UnsupportedModelError: an image tower of another kind.
    """
    if isinstance(model, Clip):
        found = model.encode_image(image, keep=keep, want="tokens")
        assert found.tokens is not None  # they were asked for
        return replace(found, tokens=model.visual.project(found.tokens[:, 1:]), mask=None)
    if keep is not None:
        raise UnsupportedModelError(f"keep: {type(model).__name__} cannot drop patches; expected None")
    if isinstance(model, TransformersEncoder) and model.family.model in SIGLIP:
        tower: Any = model.model.get_submodule("vision_model")
        if "head" not in dict(tower.named_children()):
            raise UnsupportedModelError("the image tower has no pooling head; expected SigLIP's")
        with listening({"last": tower.post_layernorm}) as seen:
            pooled = model.encode_image(image).pooled
        return Features(pooled, _each(seen["last"], tower.head))
    if isinstance(model, OpenClipEncoder):
        return _open_clip_image(model, image)
    raise UnsupportedModelError(f"{type(model).__name__}: expected a model of tether.load")


def dense_text(model: DualEncoder, text: Int[Tensor, "b l"]) -> Features:
    """Embed texts and each of their tokens: a token goes through the read-out of the text's own.

    Args:
        model: any model that ``tether.load`` gives.
        text: (b, l) token ids as the tokenizer gives them.

    Returns:
        ``pooled`` (b, d), ``tokens`` (b, l, d) not normalised, with gradient, and ``mask`` (b, l), True for words:
        neither the start, the end nor padding. A text without words has its last token instead.

    Raises:
        UnsupportedModelError: a text tower of another kind.
    """
    if isinstance(model, Clip):
        found = model.encode_text(text, want="tokens")
        assert found.tokens is not None  # they were asked for
        return replace(found, tokens=model.text.project(found.tokens), mask=word_mask(text))
    if isinstance(model, TransformersEncoder) and model.family.model in SIGLIP:
        if model.text_padding.left:
            raise UnsupportedModelError("the texts are padded on the left; expected words at the start")
        tower: Any = model.model.get_submodule("text_model")
        with listening({"last": tower.final_layer_norm}) as seen:
            pooled = model.encode_text(text).pooled
        return Features(pooled, tower.head(seen["last"][:, : text.shape[1]]), word_mask(text, starts=0))
    if isinstance(model, OpenClipEncoder):
        return _open_clip_text(model, text)
    raise UnsupportedModelError(f"{type(model).__name__}: expected a model of tether.load")


def word_mask(text: Int[Tensor, "b l"], *, starts: int = 1) -> Bool[Tensor, "b l"]:
    """True for the words of ids that end in an end token and zeros; the end itself where there is no word.

    Args:
        text: token ids as a tokenizer gives them.
        starts: tokens before the first word.
    """
    place = torch.arange(text.shape[1], device=text.device)
    end = lengths(text)[:, None] - 1
    words = (place >= starts) & (place < end)
    return words | (~words.any(dim=1, keepdim=True) & (place == end))


def _open_clip_image(model: OpenClipEncoder, image: Tensor) -> Features:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    tower: Any = model.model.get_submodule("visual")
    if isinstance(tower, TimmModel):
        trunk: Any = tower.trunk
        states = trunk.forward_features(model.pixels(image))

        def read_out(rows: Tensor) -> Tensor:
            return tower.head(trunk.forward_head(rows))

        if states.ndim == 4:  # a feature map: one place is a map of one pixel
            places = states.flatten(2).transpose(1, 2)
            tokens = read_out(places.flatten(0, 1)[:, :, None, None]).unflatten(0, places.shape[:2])
            return Features(read_out(states), tokens)
        first = int(trunk.num_prefix_tokens)
        return Features(read_out(states), _each(states[:, first:], read_out, times=first + 1))
    if type(tower) is not VisionTransformer or tower.attn_pool is not None:
        raise UnsupportedModelError(
            f"the image tower is a {type(tower).__name__}; expected timm's, or a VisionTransformer without attention "
            "pooling"
        )
    with listening({"last": tower.transformer}) as seen:
        pooled = model.encode_image(image).pooled
    tokens = tower.ln_post(seen["last"][:, 1:])
    return Features(pooled, tokens if tower.proj is None else tokens @ tower.proj)


def _open_clip_text(model: OpenClipEncoder, text: Tensor) -> Features:
    from open_clip.hf_model import HFTextEncoder

    inside = dict(model.model.named_children())
    tower: Any = inside.get("text", model.model)
    if isinstance(tower, HFTextEncoder):
        states: list[Tensor] = []
        handle = cast(nn.Module, tower.transformer).register_forward_hook(
            lambda _module, _given, made: states.append(made.last_hidden_state)
        )
        try:
            pooled = model.encode_text(text).pooled
        finally:
            handle.remove()
        return Features(pooled, tower.proj(states[0][:, : text.shape[1]]), word_mask(text))
    if "ln_final" not in dict(tower.named_children()) or "cls_emb" in dict(tower.named_parameters(recurse=False)):
        raise UnsupportedModelError(f"the text tower is a {type(tower).__name__}; expected a plain transformer")
    with listening({"last": tower.ln_final}) as seen:
        pooled = model.encode_text(text).pooled
    tokens, projection = seen["last"][:, : text.shape[1]], tower.text_projection
    if isinstance(projection, nn.Module):
        tokens = projection(tokens)
    elif projection is not None:
        tokens = tokens @ projection
    return Features(pooled, tokens, word_mask(text))


def _each(tokens: Tensor, read_out: Callable[[Tensor], Tensor], *, times: int = 1) -> Tensor:
    """Every token read out as if it were the whole stream, where a class token is expected also in its place."""
    rows = tokens.flatten(0, 1)[:, None].expand(-1, times, -1)
    return read_out(rows).unflatten(0, tokens.shape[:2])
