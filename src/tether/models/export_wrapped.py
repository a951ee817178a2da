"""A wrapped model as a folder of its own library: its names and its configuration as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tether.core.atomic_io import write_json
from tether.core.errors import InputError, WriteError
from tether.models.convert import hugging_face, open_clip
from tether.models.convert.image_processor import PREPROCESS_FILE, preprocess_config
from tether.models.save import write_weights
from tether.models.tokenizer import FunctionTokenizer
from tether.models.transformers_families import file_names
from tether.models.wrapped_encoders import OpenClipEncoder, TransformersEncoder, WrappedEncoder


def export_wrapped(encoder: WrappedEncoder, folder: Path, *, format: Literal["open_clip", "transformers"]) -> Path:
    """Write weights, configuration, preprocessing and the tokenizer's files as the model's own library does."""
    own = "open_clip" if isinstance(encoder, OpenClipEncoder) else "transformers"
    if format != own:
        raise InputError(
            f"export: a wrapped {type(encoder.model).__name__} goes to {own!r} or 'tether' alone, not to {format!r}"
        )
    renamed = file_names(encoder.model) if own == "transformers" else {}
    state = {renamed.get(name, name): value for name, value in encoder.model.state_dict().items()}
    weights = open_clip.WEIGHTS_FILES[0] if own == "open_clip" else "model.safetensors"
    write_weights(folder / weights, state, metadata={"format": "pt"})
    if isinstance(encoder.tokenizer, FunctionTokenizer) and encoder.tokenizer.write is not None:
        try:
            encoder.tokenizer.write(folder)
        except Exception as error:  # the libraries that write these files raise of many kinds
            raise WriteError(folder, error) from error
    if isinstance(encoder, TransformersEncoder):
        write_json(folder / PREPROCESS_FILE, preprocess_config(encoder.image_spec, kind=encoder.family.processor))
        write_json(folder / hugging_face.CONFIG_FILE, encoder.config)
    else:
        config = {"model_cfg": encoder.config, "preprocess_cfg": open_clip.preprocess_config(encoder.image_spec)}
        write_json(folder / open_clip.CONFIG_FILE, config)
    return folder
