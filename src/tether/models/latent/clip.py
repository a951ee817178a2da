"""A model on latents made from one on pixels, and models that are given a codec."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import Whole, checked
from tether.models.latent.codec import ScaledCodec
from tether.models.latent.config import LatentConfig, for_codecs
from tether.models.latent.spec import LatentSpec
from tether.models.latent.tower import tower_on_latents
from tether.models.towers.clip import Clip
from tether.models.towers.config import VisionConfig
from tether.models.towers.frozen_copy import buffer_copy

_STEM = "visual.patch."


@checked
def init_from_pixel_clip(
    model: nn.Module, *, codec: ScaledCodec | None = None, latent: LatentSpec | None = None, seed: Whole = 0
) -> Clip:
    """A copy that reads latents: all weights but the stem's, which is drawn (Latent-CLIP, arXiv 2503.08455).

    Its patches are those of the model, so its positions mean the same places. Train it before it is used.

    Args:
        model: CLIP's own towers, also those of open_clip and transformers that ``tether.load`` made its own; it stays
            as it is.
        codec: makes the latents; it becomes a part of the copy.
        latent: what the latents are like, for a copy without a codec.
        seed: of the stem.

    Raises:
        UnsupportedModelError: an image tower of another kind.
        InputError: neither codec nor latent or both, or patches that are no multiple of the down-sampling.

    Example:
        >>> import torch, tether
        >>> from tether.models.latent.clip import init_from_pixel_clip
        >>> from tether.models.latent.codec import ConvCodec
        >>> pixels = tether.load("tiny", random_weights=True)
        >>> model = init_from_pixel_clip(pixels, codec=ConvCodec(channels=4, downsampling=8))
        >>> model.encode_image(torch.randn(2, 4, 4, 4)).pooled.shape
        torch.Size([2, 64])
        >>> torch.equal(model.embed("a cat"), pixels.embed("a cat"))
        True
    """
    if isinstance(model, Clip) and isinstance(model.config.vision, LatentConfig):
        raise UnsupportedModelError(
            "init_from_pixel_clip: the model reads latents already; hold_codec_ gives it a codec"
        )
    plain = isinstance(model, Clip) and type(model.config.vision) is VisionConfig
    if not isinstance(model, Clip) or not plain or model.config.towers == "shared":
        raise UnsupportedModelError(
            f"init_from_pixel_clip: {type(model).__name__}: expected CLIP's own vision transformer, and two towers"
        )
    if (codec is None) == (latent is None):
        raise InputError("init_from_pixel_clip: expected either a codec or what the latents are like (latent)")
    vision = model.config.vision
    own: dict[str, Any] = {one.name: getattr(vision, one.name) for one in fields(VisionConfig)} | {
        "image": for_codecs(vision.image),
        "latent": latent if codec is None else codec.latent,
    }
    made = Clip(replace(model.config, vision=LatentConfig(**own)), tokenizer=model.tokenizer)
    made.visual.initialise_(torch.Generator().manual_seed(seed))
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(_STEM)}
    made.load_state_dict(state, strict=False)
    made.to(device=model.logit_scale.device, dtype=model.logit_scale.dtype)
    if codec is not None:
        hold_codec_(made, codec)
    return made.train(model.training)


def hold_codec_(model: Clip, codec: ScaledCodec) -> None:
    """Make a codec a part of a model that reads its latents: from now on the model takes pixels, too.

    Args:
        model: whose image tower reads latents; it gets a copy of the codec, at rest.
        codec: of the latents that it was trained on.

    Raises:
        InputError: a model on pixels, or a codec whose latents are of another shape, scale or distribution; it names
            both.
    """
    tower = tower_on_latents(model)
    known = tower.config.latent
    known.agree(codec.latent, where="codec")
    latent = known if known.mean else codec.latent
    vision = replace(tower.config, latent=latent, codec=codec.settings)
    scale = model.logit_scale
    tower.codec = buffer_copy(codec).to(device=scale.device, dtype=scale.dtype)
    tower.config, model.config = vision, replace(model.config, vision=vision)
