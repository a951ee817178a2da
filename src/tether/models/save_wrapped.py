"""What a wrapped model is, in words from which its library builds it again without a network."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from tether.core.errors import InputError
from tether.core.files import write_json
from tether.models.convert.tokenizers import MissingTokenizer
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer
from tether.models.wrap import OpenClipEncoder, WrappedEncoder

FORMAT = "tether-wrapped"
VERSION = 1
TOKENIZER_FOLDER = "tokenizer"


def write_description(encoder: WrappedEncoder, path: Path) -> None:
    """Write a wrapped model's ``model.json``, after the tokenizer's own files in ``tokenizer/`` beside it.

    Raises:
        InputError: a tokenizer that did not come with the model, which cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    values = _describe(encoder)
    if values["tokenizer"] == "files":
        _write_tokenizer(cast(FunctionTokenizer, encoder.tokenizer), path.parent / TOKENIZER_FOLDER)
    write_json(path, values)


def _describe(encoder: WrappedEncoder) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "library": "open_clip" if isinstance(encoder, OpenClipEncoder) else "transformers",
        "class": type(encoder.model).__name__,
        "config": encoder.config,
        "text_config": _text_config(encoder),
        "image": dataclasses.asdict(encoder.image_spec),
        "pad": encoder.pad,
        "tokenizer": tokenizer_kind(encoder),
    }


def _text_config(encoder: WrappedEncoder) -> dict[str, Any] | None:
    """The configuration of a Hugging Face text tower, which open_clip knows by its name on the hub alone."""
    if not isinstance(encoder, OpenClipEncoder) or "hf_model_name" not in encoder.config["text_cfg"]:
        return None
    config: Any = encoder.model.get_submodule("text").config
    return json.loads(config.to_json_string(use_diff=False))


def tokenizer_kind(encoder: WrappedEncoder) -> str:
    """``files``: written beside; ``built_in``: open_clip's package has it; ``none``: the model came without.

    Raises:
        InputError: none of these, so the model could not be loaded again.
    """
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, MissingTokenizer):
        return "none"
    if isinstance(tokenizer, FunctionTokenizer) and tokenizer.write is not None:
        return "files"
    if isinstance(tokenizer, (ClipTokenizer, FunctionTokenizer)) and isinstance(encoder, OpenClipEncoder):
        return "built_in"
    raise InputError(f"save: expected the tokenizer that the model came with, got {type(tokenizer).__name__}")


def _write_tokenizer(tokenizer: FunctionTokenizer, folder: Path) -> None:
    """All files or none: they are written elsewhere first, for the source may lie in ``folder`` itself."""
    assert tokenizer.write is not None
    with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=folder.parent) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        tokenizer.write(new)
        if folder.exists():
            folder.rename(old)
        shutil.move(new, folder)
