"""transformers' folders: CLIPModel becomes our own towers, SiglipModel stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tether.core.atomic_io import read_json
from tether.core.errors import InputError, MissingExtraError
from tether.core.types import ImageSpec
from tether.models.build_open_clip import seeded
from tether.models.config import CLIP_VOCABULARY
from tether.models.convert import hugging_face as names
from tether.models.convert.native import native
from tether.models.convert.tokenizers import siglip_tokenizer, transformers_tokenizer
from tether.models.convert.weights import assemble, find_weights
from tether.models.described import alike, blamed_on, check_values, mapping
from tether.models.dual import Clip
from tether.models.wrapped_encoders import SiglipEncoder, WrappedEncoder, check_forward

HALF = (0.5, 0.5, 0.5)  # SiglipImageProcessor's mean and deviation


def load_folder(folder: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    """A folder with a ``config.json`` and safetensors."""
    path = folder / names.CONFIG_FILE
    cfg = read_json(path)
    kind = cfg.get("model_type") if isinstance(cfg, dict) else None
    preprocess_path = folder / names.PREPROCESS_FILE
    preprocess = read_json(preprocess_path) if preprocess_path.is_file() else None
    if preprocess is not None:
        mapping(preprocess, where=str(preprocess_path))
    weights = find_weights(folder, names.WEIGHTS_FILES, pickles="pytorch_model*.bin", random_weights=random_weights)
    if kind == "clip":
        return _clip(folder, cfg, preprocess=preprocess, weights=weights)
    if kind == "siglip":
        return _siglip(folder, cfg, preprocess=preprocess, weights=weights)
    raise InputError(f"{path}: model_type {kind!r} is not known here; known: clip, siglip")


def _clip(folder: Path, cfg: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None, weights: Path | None) -> Clip:
    path, tokenizer = folder / names.CONFIG_FILE, None
    with blamed_on(path):
        check_values(cfg)
        config = names.native_config(cfg, preprocess=preprocess)
    if config is None:
        raise InputError(f"{path}: known are gelu and quick_gelu, RGB, one end token")
    if config.text.vocabulary != CLIP_VOCABULARY:
        context, size = config.text.context, config.text.vocabulary
        tokenizer = transformers_tokenizer(folder, context=context, vocabulary=size)

    return native(config, weights, described=path, tokenizer=tokenizer, library=names)


def _siglip(
    folder: Path, cfg: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None, weights: Path | None
) -> SiglipEncoder:
    path = folder / names.CONFIG_FILE
    with blamed_on(path), torch.device("meta"):
        described = cast(Any, siglip_model(cfg)).config
        text, vision = described.text_config, described.vision_config
        default = ImageSpec(size=(vision.image_size, vision.image_size), mean=HALF, std=HALF, resize="squash")
        spec = names.image_spec(vision.image_size, preprocess, default=default)
    tokenizer, pad = siglip_tokenizer(folder, context=text.max_position_embeddings, vocabulary=text.vocab_size)

    def wrap(model: nn.Module) -> SiglipEncoder:
        return SiglipEncoder(
            model,
            dim=vision.hidden_size,
            image_spec=spec,
            tokenizer=tokenizer,
            pad=text.pad_token_id if pad is None else pad,  # SigLIP 2's configuration says 1, its tokenizer 0
            config=json.loads(described.to_json_string(use_diff=False)) | {"architectures": ["SiglipModel"]},
        )

    model = assemble(
        lambda: siglip_model(cfg),
        weights,
        described=path,
        convert=names.plain_names,
        check=lambda outline: check_forward(wrap(outline)),
    )
    return wrap(model)


def siglip_model(cfg: Mapping[str, Any]) -> nn.Module:
    """A SiglipModel with weights from a fixed seed, from what a configuration says of its two towers.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import SiglipConfig, SiglipModel, SiglipTextConfig, SiglipVisionConfig
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    text = alike(cfg.get("text_config"), SiglipTextConfig().to_dict(), key="text_config")
    vision = alike(cfg.get("vision_config"), SiglipVisionConfig().to_dict(), key="vision_config")
    if "projection_size" not in text and "hidden_size" in text:
        text["projection_size"] = text["hidden_size"]
    with seeded():
        return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
