"""A wrapped model from its ``model.json``: its library builds it again, and nothing is fetched."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tether.core.errors import InputError, MissingExtraError
from tether.core.files import write_json
from tether.core.protocols import Tokenizer
from tether.core.spec import closest
from tether.models.config import read_image
from tether.models.convert.open_clip import CONFIG_FILE
from tether.models.convert.tokenizers import saved_open_clip_tokenizer, transformers_tokenizer
from tether.models.load_open_clip import seeded
from tether.models.save_wrapped import VERSION
from tether.models.tokenizer_files import TOKENIZER_FOLDER, no_tokenizer, read_kind
from tether.models.wrap import OpenClipEncoder, SiglipEncoder, WrappedEncoder

_KEYS: Mapping[str, tuple[type, ...]] = {
    "library": (str,), "class": (str,), "config": (dict,), "text_config": (dict, type(None)), "image": (dict,),
    "pad": (int,), "tokenizer": (str,),
}  # fmt: skip


def rebuild(values: Mapping[str, Any], *, path: Path) -> WrappedEncoder:
    """The model that ``values`` describe, with weights from a fixed seed, to be filled.

    Args:
        values: the contents of ``model.json``.
        path: where they were read; the tokenizer's files lie beside it.

    Raises:
        InputError: another version, a missing key, or a configuration that the library cannot build.
        MissingExtraError: the library is not installed.
    """
    if values.get("version") != VERSION:
        raise InputError(f"{path}: version {values.get('version')!r}; this tether reads version {VERSION}")
    for key, kinds in _KEYS.items():
        if not isinstance(values.get(key), kinds):
            raise InputError(f"{path}: {key}: expected {kinds[0].__name__}, got {values.get(key)!r}")
    library = values["library"]
    if library not in _LIBRARIES:
        raise InputError(f"{path}: library: unknown {library!r}; {closest(library, _LIBRARIES)}")
    read_kind(values["tokenizer"], path=path)
    try:
        encoder = _LIBRARIES[library](values, path)
    except (InputError, MissingExtraError):
        raise
    except Exception as error:  # a wrong configuration shows in many ways inside another library
        raise InputError(f"{path}: config: {library} cannot build this model: {error!r}") from error
    if type(encoder.model).__name__ != values["class"]:
        raise InputError(f"{path}: class: expected {type(encoder.model).__name__}, got {values['class']!r}")
    return encoder


def _open_clip(values: Mapping[str, Any], path: Path) -> OpenClipEncoder:
    cfg, kind, pad = values["config"], values["tokenizer"], values["pad"]
    if kind == "none":
        text = cfg["text_cfg"]
        context, vocabulary = text.get("context_length", 77), text.get("vocab_size", 49_408)
        tokenizer: Tokenizer = no_tokenizer(path, context=context, vocabulary=vocabulary)
    else:
        files = path.parent / TOKENIZER_FOLDER if kind == "files" else None
        tokenizer = saved_open_clip_tokenizer(files, cfg, pad=pad)
    return OpenClipEncoder(
        _open_clip_model(cfg, values["text_config"], path=path),
        dim=cfg["embed_dim"],
        image_spec=read_image(values["image"], where=f"{path}.image"),
        tokenizer=tokenizer,
        pad=pad,
        config=cfg,
    )


def _open_clip_model(cfg: Mapping[str, Any], text_config: Mapping[str, Any] | None, *, path: Path) -> nn.Module:
    """open_clip builds from a folder, so it gets one; a Hugging Face text tower is named by a folder in it."""
    try:
        import open_clip
    except ImportError:
        raise MissingExtraError("open_clip_torch", extra="dev") from None
    cfg = copy.deepcopy(dict(cfg))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if text_config is not None:
            write_json(folder / "text" / "config.json", text_config)
            cfg["text_cfg"]["hf_model_name"] = str(folder / "text")
        elif "hf_model_name" in cfg["text_cfg"]:
            raise InputError(f"{path}: text_config: expected the configuration of {cfg['text_cfg']['hf_model_name']}")
        write_json(folder / CONFIG_FILE, {"model_cfg": cfg, "preprocess_cfg": {}})
        with seeded():
            return open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_image=False, pretrained_text=False
            )


def _transformers(values: Mapping[str, Any], path: Path) -> SiglipEncoder:
    try:
        from transformers import SiglipConfig, SiglipModel
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    cfg = values["config"]
    if cfg.get("model_type") != "siglip":
        raise InputError(f"{path}: config: model_type {cfg.get('model_type')!r} is not known here; known: siglip")
    with seeded():
        model = SiglipModel(SiglipConfig.from_dict(copy.deepcopy(cfg)))
    text, vision = cfg["text_config"], cfg["vision_config"]
    context, vocabulary = text["max_position_embeddings"], text["vocab_size"]
    if values["tokenizer"] == "files":
        files = path.parent / TOKENIZER_FOLDER
        tokenizer: Tokenizer = transformers_tokenizer(files, context=context, vocabulary=vocabulary)
    else:
        tokenizer = no_tokenizer(path, context=context, vocabulary=vocabulary)
    return SiglipEncoder(
        model,
        dim=vision["hidden_size"],
        image_spec=read_image(values["image"], where=f"{path}.image"),
        tokenizer=tokenizer,
        pad=values["pad"],
        config=cfg,
    )


_LIBRARIES: Mapping[str, Callable[[Mapping[str, Any], Path], WrappedEncoder]] = {
    "open_clip": _open_clip,
    "transformers": _transformers,
}
