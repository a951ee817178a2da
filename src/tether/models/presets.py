"""Sizes, and a new model with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig, TextConfig, VisionConfig, read_config
from tether.models.towers.vision.eva_config import with_tower
from tether.models.towers.vision.eva_sizes import EVA_SIZES
from tether.models.towers.weight_sharing import shared_text

PRESETS: Mapping[str, ModelConfig] = {
    "tiny": ModelConfig(
        dim=64,
        vision=VisionConfig(image=ImageSpec(size=(32, 32)), patch=8, width=64, layers=2, heads=2, hidden=256),
        text=TextConfig(context=24, width=64, layers=2, heads=2, hidden=256),
    ),
    "small": ModelConfig(),
    "base": ModelConfig(
        dim=512,
        vision=VisionConfig(image=ImageSpec(size=(224, 224)), patch=32, width=768, layers=12, heads=12, hidden=3072),
        text=TextConfig(context=77, width=512, layers=12, heads=8, hidden=2048),
    ),
    **EVA_SIZES,
}
"""Sizes by name: ``tiny`` for tests (3.4 M parameters), ``small`` for two cores (14 M), ``base`` is ViT-B/32 (151 M
parameters); then EVA's, see ``towers.vision.eva_sizes``."""


def configure(size: str = "small", **settings: Any) -> ModelConfig:
    """A preset with changes.

    Args:
        size: a name in ``PRESETS``.
        **settings: keys of ``ModelConfig`` (``dim``, ``logit_scale``, ``vision={...}``, ``text={...}``), and five
            short forms: ``image_size`` (pixels), ``patch``, ``context``, ``codec`` (a file: the image tower reads its
            latents, see ``models.latent``), and ``final_layernorm`` of both towers;
            ``block={...}`` sets both towers' blocks, option by option or with ``preset`` and options on top of it.
            With ``towers="shared"`` the text side takes over from the image side what both must have alike.
    """
    if size not in PRESETS:
        raise InputError(f"size: unknown size {size!r}; {closest(size, PRESETS)}")
    settings = dict(settings)
    for tower in ("vision", "text"):
        if not isinstance(settings.get(tower, {}), Mapping):
            raise InputError(f"model: {tower}: expected a mapping of keys to values, got {settings[tower]!r}")
    vision, text = dict(settings.pop("vision", {})), dict(settings.pop("text", {}))
    if "image_size" in settings:
        side = settings.pop("image_size")
        image, square = vision.get("image", {}), (side, side) if isinstance(side, int) else side
        if not isinstance(image, Mapping) or not isinstance(square, Sequence) or {*map(type, square)} != {int}:
            raise InputError(f"model: expected image_size in pixels and a mapping 'image', got {side!r} and {image!r}")
        vision["image"] = {**image, "size": tuple(square)}
    if "patch" in settings:
        vision["patch"] = settings.pop("patch")
    if "context" in settings:
        text["context"] = settings.pop("context")
    if "final_layernorm" in settings:
        choice = settings.pop("final_layernorm")
        for tower in (vision, text):
            tower.setdefault("final_layernorm", choice)
    if "block" in settings:
        block = settings.pop("block")
        for tower in (vision, text):
            own = tower.get("block", {})
            plain = isinstance(block, Mapping) and isinstance(own, Mapping)
            tower["block"] = {**block, **own} if plain else own or block
    if "codec" in settings:
        vision = {"tower": "latent", "codec": settings.pop("codec"), **vision}
    if isinstance(path := vision.get("codec"), (str, Path)):
        from tether.models.latent.codecs import load_codec

        codec = load_codec(path)
        vision = {"latent": codec.latent, **vision, "codec": codec.settings}
    base = with_tower(PRESETS[size], {**settings, "vision": vision}, where="model")
    if settings.get("towers") == "shared":
        text = shared_text(read_config({"vision": vision}, where="model", base=base).vision, text)
    if vision:
        settings["vision"] = vision
    if text:
        settings["text"] = text
    return read_config(settings, where="model", base=base)


def create(size: str = "small", *, seed: int = 0, **settings: Any) -> Clip:
    """A model with random weights, in training mode on the CPU.

    Args:
        size: a name in ``PRESETS``, such as ``tiny``, ``small`` or ``base``.
        seed: of the generator that draws the weights.
        **settings: see ``configure``.
    """
    model = Clip(configure(size, **settings))
    model.initialise_(torch.Generator().manual_seed(seed))
    codec = dict(settings.get("vision", {})).get("codec", settings.get("codec"))
    if isinstance(codec, (str, Path)):
        from tether.models.latent.clip import hold_codec_
        from tether.models.latent.codecs import load_codec

        hold_codec_(model, load_codec(codec))
    return model
