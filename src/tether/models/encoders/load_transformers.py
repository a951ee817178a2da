"""transformers' folders: CLIPModel becomes our own towers, every other dual encoder stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.protocols import Tokenizer
from tether.core.types import ImageSpec
from tether.models.config_check import blamed_on, check_values
from tether.models.convert import hugging_face as names
from tether.models.convert.image_processor import image_spec, read_processor
from tether.models.convert.native import native
from tether.models.convert.tokenizers import text_padding, transformers_tokenizer
from tether.models.convert.transformers_families import Family, family_of, file_names, tower_sizes, transformers_model
from tether.models.convert.weights import assemble, find_weights
from tether.models.encoders.wrapped import TransformersEncoder, WrappedEncoder, check_forward
from tether.models.towers.clip import Clip
from tether.models.towers.config import CLIP_VOCABULARY

_MODULES = "modules.json"


def load_folder(folder: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    """A folder with a ``config.json`` and safetensors."""
    path = folder / names.CONFIG_FILE
    cfg = read_json(path)
    with blamed_on(path):
        family = family_of(cfg)
    preprocess = read_processor(folder)
    weights = find_weights(folder, names.WEIGHTS_FILES, pickles="pytorch_model*.bin", random_weights=random_weights)
    if family.model == "CLIPModel":
        with blamed_on(path):
            check_values(cfg)
            config = names.native_config(cfg, preprocess=preprocess)
        if config is not None:
            context, size = config.text.context, config.text.vocabulary
            own = size != CLIP_VOCABULARY
            tokenizer = transformers_tokenizer(folder, context=context, vocabulary=size) if own else None
            return native(config, weights, described=path, tokenizer=tokenizer, library=names)
    with blamed_on(path), torch.device("meta"):
        outline = transformers_model(cfg)
        plain = cast(Any, outline).config
        side = getattr(plain.vision_config, "image_size", None)
        spec = image_spec(side, preprocess, kind=family.processor, any_size=family.any_size)
        config = json.loads(plain.to_json_string(use_diff=False)) | {"architectures": [family.model]}
    wrap = wrapper(config, outline, image=spec, tokenizer=read_tokenizer(folder, family, outline))
    model = assemble(
        lambda: transformers_model(cfg),
        weights,
        described=path,
        convert=lambda state: module_names(state, family, file_names(outline)),
        check=lambda outline: check_forward(wrap(outline)),
    )
    return wrap(model)


def load_sentence_transformers(folder: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    """A folder with a ``modules.json`` of sentence-transformers that is a CLIP alone, in a folder of its own."""
    path = folder / _MODULES
    listed = read_json(path)
    entries = listed if isinstance(listed, list) and all(isinstance(entry, dict) for entry in listed) else []
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in entries]
    if not kinds or kinds[0] != "CLIPModel" or set(kinds[1:]) - {"Normalize"}:
        raise InputError(f"{path}: expected a CLIPModel, with Normalize at most after it, got {kinds}")
    inside = (folder / str(entries[0].get("path", ""))).resolve()
    if not inside.is_relative_to(folder.resolve()) or not (inside / names.CONFIG_FILE).is_file():
        raise InputError(f"{path}: path: expected a folder inside with a config.json, got {entries[0].get('path')!r}")
    return load_folder(inside, random_weights=random_weights)


def read_tokenizer(folder: Path, family: Family, model: nn.Module) -> Tokenizer:
    """The tokenizer in a folder, for the text tower of a model."""
    context, vocabulary = tower_sizes(model)
    return transformers_tokenizer(folder, context=context, vocabulary=vocabulary, lower_gemma=family.lower_gemma)


def wrapper(
    config: Mapping[str, Any], outline: nn.Module, *, image: ImageSpec, tokenizer: Tokenizer, pad: int | None = None
) -> Callable[[nn.Module], TransformersEncoder]:
    """What wraps a module of the same class as ``outline``; ``pad`` is the id where the tokenizer names none."""
    family = family_of(config)
    dim: Any = config
    for key in family.dim.split("."):
        dim = dim[key]
    pad = cast(Any, outline).config.text_config.pad_token_id if pad is None else pad
    padding = text_padding(tokenizer, pad=pad, masked=family.masked)

    def wrap(model: nn.Module) -> TransformersEncoder:
        return TransformersEncoder(
            model, dim=dim, image_spec=image, tokenizer=tokenizer, config=config, text_padding=padding
        )

    return wrap


def module_names(state: Mapping[str, Tensor], family: Family, written: Mapping[str, str]) -> dict[str, Tensor]:
    """A file's weights by the module's names.

    Args:
        state: by the file's names.
        family: of the model; what its class has not is left out.
        written: the file's names by the module's, where they differ.
    """
    inner = any(name.startswith(family.prefix) for name in state)
    ours = {theirs: own for own, theirs in written.items()}
    found = {}
    for name, value in names.plain_names(state).items():
        plain = name.removeprefix(family.prefix) if inner else name
        for tower in ("text_model", "vision_model"):  # transformers before version 5 wrote some of them twice
            plain = plain.replace(f"{tower}.{tower}.", f"{tower}.", 1)
        if not plain.startswith(family.unread or "\0"):
            found[ours.get(plain, plain)] = value
    return found
