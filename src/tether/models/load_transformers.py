"""transformers' folders: CLIPModel becomes our own towers, SiglipModel stays as it is."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from tether.core.errors import InputError, MissingExtraError
from tether.core.files import read_json
from tether.core.types import ImageSpec
from tether.models.config import CLIP_VOCABULARY
from tether.models.convert import hugging_face as names
from tether.models.convert.rules import take
from tether.models.convert.tokenizers import transformers_tokenizer
from tether.models.convert.weights import fill, read_weights, refuse_pickle
from tether.models.dual import Clip
from tether.models.wrap import SiglipEncoder, WrappedEncoder

WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json")
SIGLIP_PAD = 1  # SiglipTextConfig's default
HALF = (0.5, 0.5, 0.5)  # SiglipImageProcessor's mean and deviation


def load_folder(folder: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    """A folder with a ``config.json`` and safetensors.

    Raises:
        InputError: another kind of model, no weights, or weights that do not fit.
    """
    path = folder / names.CONFIG_FILE
    cfg = read_json(path)
    kind = cfg.get("model_type") if isinstance(cfg, dict) else None
    preprocess_path = folder / names.PREPROCESS_FILE
    preprocess = read_json(preprocess_path) if preprocess_path.is_file() else None
    weights = _weights(folder, random_weights=random_weights)
    if kind == "clip":
        return _clip(folder, cfg, preprocess=preprocess, weights=weights)
    if kind == "siglip":
        return _siglip(folder, cfg, preprocess=preprocess, weights=weights)
    raise InputError(f"{path}: model_type {kind!r} is not known here; known: clip, siglip")


def _weights(folder: Path, *, random_weights: bool) -> Path | None:
    found = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if found is None:
        for pickle in sorted(folder.glob("pytorch_model*.bin")):
            refuse_pickle(pickle)
        if not random_weights:
            raise InputError(f"{folder}: holds no {' or '.join(WEIGHTS_FILES)}; random weights must be asked for")
    return found


def _clip(folder: Path, cfg: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None, weights: Path | None) -> Clip:
    try:
        config = names.native_config(cfg, preprocess=preprocess)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / names.CONFIG_FILE}: not a CLIPModel's configuration: {error}") from None
    if config is None:
        raise InputError(f"{folder / names.CONFIG_FILE}: known are gelu and quick_gelu, RGB, one end token")
    tokenizer = None
    if config.text.vocabulary != CLIP_VOCABULARY:
        context, size = config.text.context, config.text.vocabulary
        tokenizer = transformers_tokenizer(folder, context=context, vocabulary=size)
    model = Clip(config, tokenizer=tokenizer)
    if weights is None:
        model.initialise_(torch.Generator().manual_seed(0))
    else:
        state = names.plain_names(read_weights(weights))
        fill(model, take(state, names.rules(config), where=str(weights)), where=weights)
    return model


def _siglip(
    folder: Path, cfg: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None, weights: Path | None
) -> SiglipEncoder:
    try:
        from transformers import SiglipConfig, SiglipModel
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig.from_dict(copy.deepcopy(dict(cfg))))
    if weights is not None:
        state = names.plain_names(read_weights(weights))
        fill(model, state, where=weights)
    text, vision = cast(Any, model.config.text_config), cast(Any, model.config.vision_config)
    tokenizer = transformers_tokenizer(folder, context=text.max_position_embeddings, vocabulary=text.vocab_size)
    default = ImageSpec(size=(vision.image_size, vision.image_size), mean=HALF, std=HALF, resize="squash")
    spec = names.image_spec(vision.image_size, preprocess, default=default)
    return SiglipEncoder(
        model,
        dim=vision.hidden_size,
        image_spec=spec,
        tokenizer=tokenizer,
        pad=text.pad_token_id or SIGLIP_PAD,
        config=json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": ["SiglipModel"]},
    )
