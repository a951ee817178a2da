"""What a wrapped model is, in words from which its library builds it again without a network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_json
from tether.models.tokenizer_files import tokenizer_kind, write_tokenizer
from tether.models.wrapped_encoders import OpenClipEncoder, WrappedEncoder

FORMAT = "tether-wrapped"
VERSION = 1


def write_description(encoder: WrappedEncoder, path: Path) -> None:
    """Write a wrapped model's ``model.json``, after the tokenizer's own files in ``tokenizer/`` beside it.

    Raises:
        InputError: a tokenizer that did not come with the model, which cannot be written.
    """
    values = _describe(encoder)
    write_tokenizer(encoder.tokenizer, path.parent)
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
        "tokenizer": tokenizer_kind(encoder.tokenizer),
    }


def _text_config(encoder: WrappedEncoder) -> dict[str, Any] | None:
    """The configuration of a Hugging Face text tower, which open_clip knows by its name on the hub alone."""
    if not isinstance(encoder, OpenClipEncoder) or "hf_model_name" not in encoder.config["text_cfg"]:
        return None
    config: Any = encoder.model.get_submodule("text").config
    return json.loads(config.to_json_string(use_diff=False))
